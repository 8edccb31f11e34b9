package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

var processSteps = []step{
	{"run: stdout, stderr, exit status", anywhere, runOutputs},
	{"run: stdin", anywhere, runStdin},
	{"run: user, environment, directory", onKernel, runIdentity},
	{"run: 4 MB of output, all of it", onKernel, runMuch},
	{"run: signals", anywhere, runSignals},
	{"attach: two clients see the same", onKernel, attachBoth},
	{"attach: an ended process", anywhere, attachEnded},
	{"detach: the process lives on", anywhere, detachLives},
	{"errors: process, executable, user", anywhere, processErrors},
}

func runOutputs(s *suite) error {
	return s.in(nil, func(handle string) error {
		p, err := s.w.run(handle, shell("echo to out; echo to err >&2; exit 42", ""), nil)
		if err != nil {
			return err
		}
		status, out, errOut, err := p.finish()
		return first(err, equal("status", status, 42), equal("stdout", out, "to out\n"),
			equal("stderr", errOut, "to err\n"))
	})
}

func runStdin(s *suite) error {
	return s.in(nil, func(handle string) error {
		p, err := s.w.run(handle, map[string]any{"path": "cat"}, nil)
		if err != nil {
			return err
		}
		text := strings.Repeat("a line of input, with é and \x00\n", 2000)
		if err := first(p.stdin(text[:1000]), p.stdin(text[1000:]), p.closeStdin()); err != nil {
			return err
		}
		status, out, _, err := p.finish()
		return first(err, equal("status", status, 0), equal("came back unchanged", out == text, true))
	})
}

func runIdentity(s *suite) error {
	return s.in(map[string]any{"env": []string{"A=container", "B=container"}}, func(handle string) error {
		spec := shell("echo $(id -un) $A $B $HOME $USER; pwd", "alice")
		spec["env"] = []string{"B=process"}
		spec["dir"] = "/tmp/made/here"
		p, err := s.w.run(handle, spec, nil)
		if err != nil {
			return err
		}
		status, out, errOut, err := p.finish()
		want := "alice container process /home/alice alice\n/tmp/made/here\n"
		return first(err, equal("stdout", out, want), equal("stderr", errOut, ""), equal("status", status, 0),
			s.shAs(handle, "vcap", "id -un", 0, "vcap\n"), s.shAs(handle, "", "id -u", 0, "0\n"),
			s.sh(handle, "cd / && echo ok", 0, "ok\n"))
	})
}

func runMuch(s *suite) error {
	return s.in(nil, func(handle string) error {
		p, err := s.w.run(handle, shell("head -c 4000000 /dev/zero | tr '\\0' x", ""), nil)
		if err != nil {
			return err
		}
		status, out, _, err := p.finish()
		return first(err, equal("status", status, 0), equal("bytes", len(out), 4000000),
			equal("only x", strings.Trim(out, "x"), ""))
	})
}

func runSignals(s *suite) error {
	return s.in(nil, func(handle string) error {
		for _, c := range []struct{ signal, status int }{{signalTerminate, 143}, {signalKill, 137}} {
			p, err := s.w.run(handle, map[string]any{"path": "sleep", "args": []string{"1000"}}, nil)
			if err != nil {
				return err
			}
			sent := time.Now()
			err = first(p.closeStdin(), p.signal(c.signal))
			status, _, _, err2 := p.finish()
			if err := first(err, err2, equal("status", status, c.status)); err != nil {
				return err
			}
			if took := time.Since(sent); took > 5*time.Second {
				return fmt.Errorf("signal %d took %s", c.signal, took)
			}
		}
		return nil
	})
}

// watch collects output as it comes and says when a text has arrived.
type watch struct {
	mutex sync.Mutex
	seen  bytes.Buffer
}

func (w *watch) Write(p []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.seen.Write(p)
}

func (w *watch) waitFor(text string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		w.mutex.Lock()
		there := strings.Contains(w.seen.String(), text)
		w.mutex.Unlock()
		if there {
			return nil
		}
	}
	return fmt.Errorf("%q did not appear", text)
}

func attachBoth(s *suite) error {
	return s.in(nil, func(handle string) error {
		var live watch
		spec := shell("echo ready; read line; echo got $line; exit 5", "")
		spec["id"] = "both"
		one, err := s.w.run(handle, spec, &live)
		if err != nil {
			return err
		}
		if err := live.waitFor("ready"); err != nil {
			return err
		}
		two, err := s.w.attach(handle, "both", nil)
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		if err := first(equal("id", two.id, "both"), two.stdin("from the second\n")); err != nil {
			return err
		}
		status1, out1, _, err1 := one.finish()
		status2, out2, _, err2 := two.finish()
		return first(err1, err2, equal("first status", status1, 5), equal("second status", status2, 5),
			equal("first stdout", out1, "ready\ngot from the second\n"),
			equal("second stdout", strings.TrimPrefix(out2, "ready\n"), "got from the second\n"))
	})
}

func attachEnded(s *suite) error {
	return s.in(nil, func(handle string) error {
		spec := shell("exit 9", "")
		spec["id"] = "ended"
		p, err := s.w.run(handle, spec, nil)
		if err != nil {
			return err
		}
		status, _, _, err := p.finish()
		if err := first(err, equal("status", status, 9)); err != nil {
			return err
		}
		again, err := s.w.attach(handle, "ended", nil)
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		status, _, _, err = again.finish()
		if err := first(err, equal("status seen by attach", status, 9)); err != nil {
			return err
		}
		_, err = s.w.run(handle, spec, nil)
		return refused(err, "", "already exists")
	})
}

func detachLives(s *suite) error {
	return s.in(nil, func(handle string) error {
		spec := shell("sleep 0.3; echo after; exit 4", "")
		spec["id"] = "kept"
		p, err := s.w.run(handle, spec, nil)
		if err != nil {
			return err
		}
		p.detach()
		again, err := s.w.attach(handle, "kept", nil)
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		status, out, _, err := again.finish()
		return first(err, equal("status", status, 4), equal("stdout", out, "after\n"))
	})
}

func processErrors(s *suite) error {
	return s.in(nil, func(handle string) error {
		_, noProcess := s.w.attach(handle, "nothing", nil)
		_, noFile := s.w.run(handle, map[string]any{"path": "no-such-program"}, nil)
		_, noUser := s.w.run(handle, shell("true", "mallory"), nil)
		if noUser == nil {
			return errors.New("an unknown user was accepted")
		}
		return first(
			refused(noProcess, "ProcessNotFoundError", "nothing"),
			refused(noFile, "ExecutableNotFoundError", "executable file not found in $PATH"),
			refused(noUser, "", "unable to find user mallory: no matching entries in passwd file"))
	})
}
