package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
)

// suite holds what the steps share: the server, and the names of what they made.
type suite struct {
	w      *wire
	prefix string
	next   atomic.Int64
}

func (s *suite) handle() string {
	return fmt.Sprintf("%s-%d", s.prefix, s.next.Add(1))
}

// in makes a container, does the work in it and destroys it; an error of any of the three is the step's.
func (s *suite) in(spec map[string]any, work func(handle string) error) error {
	handle := s.handle()
	if spec == nil {
		spec = map[string]any{}
	}
	spec["handle"] = handle
	if err := s.create(spec); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err := work(handle)
	if gone := s.destroy(handle); gone != nil {
		err = errors.Join(err, fmt.Errorf("destroy: %w", gone))
	}
	return err
}

func (s *suite) create(spec map[string]any) error {
	var made struct{ Handle string }
	if err := s.w.call("POST", "/containers", spec, &made); err != nil {
		return err
	}
	return equal("handle", made.Handle, spec["handle"].(string))
}

func (s *suite) destroy(handle string) error {
	return s.w.call("DELETE", path("containers", handle), nil, nil)
}

func (s *suite) list(filter url.Values) ([]string, error) {
	var listed struct{ Handles []string }
	err := s.w.call("GET", "/containers?"+filter.Encode(), nil, &listed)
	return listed.Handles, err
}

// real finds out whether processes in containers are the kernel's.
func (s *suite) real() (bool, error) {
	real := false
	err := s.in(nil, func(handle string) error {
		p, err := s.w.run(handle, map[string]any{"path": "cat", "args": []string{"/proc/self/status"}}, nil)
		if err != nil {
			return err
		}
		status, out, _, err := p.finish()
		real = status == 0 && strings.Contains(out, "CapEff")
		return err
	})
	return real, err
}

// sweep destroys what failed steps left behind.
func (s *suite) sweep() {
	handles, err := s.list(url.Values{"garden.state": {"all"}})
	if err != nil {
		return
	}
	for _, handle := range handles {
		if strings.HasPrefix(handle, s.prefix) {
			_ = s.destroy(handle)
		}
	}
}

// sh runs a shell line to its end and holds it to its status and output.
func (s *suite) sh(handle, line string, status int, stdout string) error {
	return s.shAs(handle, "", line, status, stdout)
}

func (s *suite) shAs(handle, user, line string, status int, stdout string) error {
	p, err := s.w.run(handle, shell(line, user), nil)
	if err != nil {
		return fmt.Errorf("run %q: %w", line, err)
	}
	got, out, errOut, err := p.finish()
	if err != nil {
		return fmt.Errorf("run %q: %w", line, err)
	}
	if got != status || out != stdout {
		return fmt.Errorf("run %q: status %d, stdout %q, stderr %q; want %d, %q", line, got, out, errOut, status, stdout)
	}
	return nil
}

func shell(line, user string) map[string]any {
	spec := map[string]any{"path": "/bin/sh", "args": []string{"-c", line}}
	if user != "" {
		spec["user"] = user
	}
	return spec
}

func equal[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %#v, want %#v", what, got, want)
	}
	return nil
}

// refused holds an error to its type and a part of its text.
func refused(err error, kind, text string) error {
	var typed *wireError
	if err == nil {
		return fmt.Errorf("no error; want %s %q", kind, text)
	}
	if !errors.As(err, &typed) {
		return fmt.Errorf("error without a document: %w", err)
	}
	if typed.Type != kind || !strings.Contains(typed.Message, text) {
		return fmt.Errorf("error of type %q, %q; want %q with %q", typed.Type, typed.Message, kind, text)
	}
	return nil
}

// first returns the first error of several checks.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
