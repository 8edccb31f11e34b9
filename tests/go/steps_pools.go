package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The pools of a Diego cell, as many at a time as it has of each.
const (
	creates    = 32
	destroys   = 32
	reads      = 64
	metricsers = 8
	containers = 64
)

// inPool does the work for each item, so many at a time, and joins their errors.
func inPool[T any](workers int, items []T, work func(T) error) error {
	queue, results := make(chan T), make(chan error)
	for range workers {
		go func() {
			for item := range queue {
				results <- work(item)
			}
		}()
	}
	go func() {
		defer close(queue)
		for _, item := range items {
			queue <- item
		}
	}()
	var all error
	for range items {
		all = errors.Join(all, <-results)
	}
	return all
}

// pinging pings once a second until it is told to stop, and returns the first error.
func (s *suite) pinging(stop <-chan struct{}) error {
	for {
		if err := s.w.call("GET", "/ping", nil, nil); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		select {
		case <-stop:
			return nil
		case <-time.After(time.Second):
		}
	}
}

// pools does everything at once, each request on a connection of its own.
func pools(s *suite) error {
	dials, requests := s.w.dials.Load(), s.w.requests.Load()
	stop, pinged := make(chan struct{}), make(chan error, 1)
	go func() { pinged <- s.pinging(stop) }()

	mark := s.handle()
	err := s.poolsOf(mark)
	close(stop)
	ping, late := within("end of the pings", pinged)
	// Whatever failed, nothing stays.
	left, listed := s.list(url.Values{"pool": {mark}, "garden.state": {"all"}})
	for _, handle := range left {
		_ = s.destroy(handle)
	}
	return first(err, ping, late, listed, equal("handles left", fmt.Sprint(left), "[]"),
		equal("connections", s.w.dials.Load()-dials, s.w.requests.Load()-requests))
}

func (s *suite) poolsOf(mark string) error {
	var mutex sync.Mutex
	var handles []string
	err := inPool(creates, make([]struct{}, containers), func(struct{}) error {
		var made struct{ Handle string }
		spec := map[string]any{"properties": map[string]string{"pool": mark}}
		if err := s.w.call("POST", "/containers", spec, &made); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		mutex.Lock()
		defer mutex.Unlock()
		handles = append(handles, made.Handle)
		return nil
	})
	if err != nil {
		return err
	}
	listed, err := s.list(url.Values{"pool": {mark}})
	slices.Sort(listed)
	slices.Sort(handles)
	different := slices.Compact(slices.Clone(handles))
	if err := first(err, equal("different handles", len(different), containers),
		equal("listed", strings.Join(listed, " "), strings.Join(handles, " "))); err != nil {
		return err
	}

	// Reads and metrics at the same time.
	read := make(chan error, 1)
	go func() {
		read <- inPool(reads, handles, func(handle string) error {
			var info struct {
				State      string
				Properties map[string]string
			}
			err := s.w.call("GET", path("containers", handle, "info"), nil, &info)
			return first(err, equal("state", info.State, "active"), equal("property", info.Properties["pool"], mark))
		})
	}()
	query := "/containers/bulk_metrics?" + url.Values{"handles": {strings.Join(handles, ",")}}.Encode()
	measured := inPool(metricsers, make([]struct{}, 2*metricsers), func(struct{}) error {
		var got map[string]struct{ Err *wireError }
		if err := s.w.call("GET", query, nil, &got); err != nil {
			return fmt.Errorf("bulk metrics: %w", err)
		}
		for handle, entry := range got {
			if entry.Err != nil {
				return fmt.Errorf("metrics of %s: %w", handle, entry.Err)
			}
		}
		return equal("entries of bulk metrics", len(got), containers)
	})
	informed, late := within("end of the reads", read)
	if err := first(measured, informed, late); err != nil {
		return err
	}

	// Each is used once, and destroyed while others still are.
	return inPool(destroys, handles, func(handle string) error {
		return first(s.sh(handle, "echo from "+handle, 0, "from "+handle+"\n"), s.destroy(handle))
	})
}
