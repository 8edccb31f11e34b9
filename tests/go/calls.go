package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// calls are those of the official client, by its own names, with the request that each becomes. Client.Lookup is a
// list; Container.Handle and Process.ID send nothing; Process.Wait reads what Container.Run or Container.Attach opened.
var calls = map[string]*regexp.Regexp{
	"Client.Ping":                      call("GET", "ping"),
	"Client.Capacity":                  call("GET", "capacity"),
	"Client.Create":                    call("POST", "containers"),
	"Client.Destroy":                   call("DELETE", "containers/:"),
	"Client.Containers":                call("GET", "containers"),
	"Client.BulkInfo":                  call("GET", "containers/bulk_info"),
	"Client.BulkMetrics":               call("GET", "containers/bulk_metrics"),
	"Container.Stop":                   call("PUT", "containers/:/stop"),
	"Container.Info":                   call("GET", "containers/:/info"),
	"Container.StreamIn":               call("PUT", "containers/:/files"),
	"Container.StreamOut":              call("GET", "containers/:/files"),
	"Container.CurrentBandwidthLimits": call("GET", "containers/:/limits/bandwidth"),
	"Container.CurrentCPULimits":       call("GET", "containers/:/limits/cpu"),
	"Container.CurrentDiskLimits":      call("GET", "containers/:/limits/disk"),
	"Container.CurrentMemoryLimits":    call("GET", "containers/:/limits/memory"),
	"Container.NetIn":                  call("POST", "containers/:/net/in"),
	"Container.NetOut":                 call("POST", "containers/:/net/out"),
	"Container.BulkNetOut":             call("POST", "containers/:/net/out/bulk"),
	"Container.Run":                    call("POST", "containers/:/processes"),
	"Container.Attach":                 call("GET", "containers/:/processes/:"),
	"standard output":                  call("GET", "containers/:/processes/:/attaches/:/stdout"),
	"standard error":                   call("GET", "containers/:/processes/:/attaches/:/stderr"),
	"Container.Metrics":                call("GET", "containers/:/metrics"),
	"Container.SetGraceTime":           call("PUT", "containers/:/grace_time"),
	"Container.Properties":             call("GET", "containers/:/properties"),
	"Container.Property":               call("GET", "containers/:/properties/:"),
	"Container.SetProperty":            call("PUT", "containers/:/properties/:"),
	"Container.RemoveProperty":         call("DELETE", "containers/:/properties/:"),
	"Process.Signal":                   call("message", "signal"),
	"Process.SetTTY":                   call("message", "tty"),
}

func call(method, path string) *regexp.Regexp {
	return regexp.MustCompile("^" + method + " /" + strings.ReplaceAll(path, ":", "[^/]+") + "$")
}

// callsMade says which calls were made; safe for use by many at once.
type callsMade struct {
	mutex sync.Mutex
	names map[string]bool
}

func (c *callsMade) note(method, path string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.names == nil {
		c.names = map[string]bool{}
	}
	for name, pattern := range calls {
		if pattern.MatchString(method + " " + path) {
			c.names[name] = true
		}
	}
}

func (c *callsMade) missing() []string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	missing := maps.Clone(calls)
	maps.DeleteFunc(missing, func(name string, _ *regexp.Regexp) bool { return c.names[name] })
	return slices.Sorted(maps.Keys(missing))
}

// everyCall holds this program itself to its promise. It comes after all other steps.
func everyCall(s *suite) error {
	if missing := s.w.made.missing(); len(missing) > 0 {
		return fmt.Errorf("not made: %s", strings.Join(missing, ", "))
	}
	return nil
}
