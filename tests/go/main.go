// Garden-go drives a Garden server from Go and says of each step whether it held.
//
//	garden-go <unix|tcp> <address>
//	garden-go restart <server's program and arguments, with --bind-socket>
//
// It is an independent second client, on Go's standard library alone, written from the recorded wire traffic; it is
// not the official Go client. The server's default root filesystem must hold busybox and the users root, vcap, alice.
// On a server whose containers are in memory, steps that need the kernel's processes are left out. The second form
// starts, stops and kills a server of its own.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

// patience bounds every single wait: a hang is a failure that names itself.
var patience = 20 * time.Second

func within[T any](what string, from <-chan T) (T, error) {
	select {
	case value := <-from:
		return value, nil
	case <-time.After(patience):
		var none T
		return none, fmt.Errorf("no %s within %s", what, patience)
	}
}

func main() {
	restarting := len(os.Args) > 2 && os.Args[1] == "restart"
	if !restarting && (len(os.Args) != 3 || (os.Args[1] != "unix" && os.Args[1] != "tcp")) {
		fmt.Fprintln(os.Stderr, "usage: garden-go <unix|tcp> <address>, or garden-go restart <server's command line>")
		os.Exit(2)
	}
	if text := os.Getenv("GARDEN_GO_PATIENCE"); text != "" {
		wait, err := time.ParseDuration(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, "GARDEN_GO_PATIENCE:", err)
			os.Exit(2)
		}
		patience = wait
	}
	if restarting {
		if err := restart(os.Args[2:], os.Stdout); err != nil {
			fmt.Println("FAIL restart:", err)
			os.Exit(1)
		}
		return
	}
	w := newWire(os.Args[1], os.Args[2])
	w.client.Timeout = patience
	s := &suite{w: w, prefix: fmt.Sprintf("go-%s-%d", os.Args[1], os.Getpid())}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() { <-interrupted; s.sweep(); os.Exit(1) }()

	real, err := s.real()
	if err != nil {
		fmt.Println("FAIL cannot find out what containers are like here:", err)
		os.Exit(1)
	}
	failed := runSteps(s, steps, real, os.Stdout)
	s.sweep()
	if failed > 0 {
		os.Exit(1)
	}
}

// step is one claim about the server.
type step struct {
	name  string
	needs needs
	run   func(*suite) error
}

// needs says what containers must be like for a step.
type needs bool

const (
	anywhere needs = false
	onKernel needs = true // processes are the kernel's
)

// runSteps runs each step that can be run, whatever became of the others, and returns how many failed.
func runSteps(s *suite, steps []step, real bool, out io.Writer) int {
	failed, skipped := 0, 0
	for _, step := range steps {
		if step.needs == onKernel && !real {
			skipped++
			fmt.Fprintf(out, "skipped %s: these containers are in memory\n", step.name)
		} else if err := step.run(s); err != nil {
			failed++
			fmt.Fprintf(out, "FAIL %s: %s\n", step.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Fprintf(out, "ok %s\n", step.name)
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", len(steps)-failed-skipped, failed, skipped)
	return failed
}
