package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// restart runs a server of its own and shows that a client finds its process again after the server was stopped, and
// after it was killed, by the error that Concourse looks for.
func restart(command []string, out io.Writer) error {
	at := slices.Index(command, "--bind-socket")
	if at < 0 || at+1 == len(command) {
		return errors.New("the server's command line has no --bind-socket")
	}
	w := newWire("unix", command[at+1])
	w.client.Timeout = patience
	s := &suite{w: w, prefix: fmt.Sprintf("go-restart-%d", os.Getpid())}
	server, err := serve(s, command)
	if err != nil {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		err := s.in(nil, func(handle string) error {
			server, err = reattach(s, handle, server, signal, command)
			return err
		})
		if err != nil {
			s.sweep()
			return errors.Join(fmt.Errorf("%s: %w", signal, err), end(server, syscall.SIGTERM))
		}
		fmt.Fprintf(out, "ok attached again after %s\n", signal)
	}
	return end(server, syscall.SIGTERM)
}

func reattach(s *suite, handle string, server *exec.Cmd, signal syscall.Signal, command []string) (*exec.Cmd, error) {
	spec := shell("echo one; read line; echo two $line; exit 7", "")
	spec["id"] = "kept"
	var live watch
	p, err := s.w.run(handle, spec, &live)
	if err != nil {
		return server, err
	}
	if err := live.waitFor("one\n"); err != nil {
		return server, err
	}
	if err := end(server, signal); err != nil {
		return server, err
	}
	_, _, _, lost := p.finish()
	if lost == nil || !strings.HasSuffix(lost.Error(), "connection: decode failed: EOF") {
		return server, fmt.Errorf("the client of a server that went is told: %v", lost)
	}
	if server, err = serve(s, command); err != nil {
		return server, err
	}
	again, err := s.w.attach(handle, "kept", nil)
	if err != nil {
		return server, fmt.Errorf("attach: %w", err)
	}
	if err := again.stdin("more\n"); err != nil {
		return server, err
	}
	status, text, _, err := again.finish()
	// A server that was killed may repeat what it had no time to note.
	return server, first(err, equal("status", status, 7), equal("stdout", strings.TrimPrefix(text, "one\n"), "two more\n"))
}

// serve starts the server and waits until it answers.
func serve(s *suite, command []string) (*exec.Cmd, error) {
	server := exec.Command(command[0], command[1:]...)
	if err := server.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := s.w.call("GET", "/ping", nil, nil)
		if err == nil {
			return server, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the server does not answer: %w", err), end(server, syscall.SIGKILL))
		}
	}
}

// end sends a signal to the server and waits for it to go. Stopped, it must end well.
func end(server *exec.Cmd, signal syscall.Signal) error {
	if err := server.Process.Signal(signal); err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- server.Wait() }()
	ended, late := within("end of the server", gone)
	if signal == syscall.SIGKILL {
		ended = nil
	}
	return first(late, ended)
}
