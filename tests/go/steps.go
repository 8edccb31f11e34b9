package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

var steps = slices.Concat([]step{
	{"ping", anywhere, func(s *suite) error { return s.w.call("GET", "/ping", nil, nil) }},
	{"capacity", anywhere, capacity},
	{"create, list with a filter, destroy", anywhere, createListDestroy},
	{"duplicate handle", anywhere, duplicateHandle},
	{"missing image", anywhere, missingImage},
	{"unknown handle", anywhere, unknownHandle},
	{"info", anywhere, info},
	{"properties", anywhere, properties},
	{"bulk info", anywhere, bulkInfo},
	{"metrics", onKernel, metrics},
	{"limits", anywhere, limits},
	{"net in", onKernel, netIn},
	{"stop", anywhere, stop},
	{"grace time", anywhere, graceTime},
	{"8 lives at once", anywhere, concurrentLives},
}, processSteps, fileSteps, callSteps, []step{
	{"a cell's pools: 32 creates, 64 reads, 8 metrics, 32 destroys", anywhere, pools},
	{"every call of the official client was made", onKernel, everyCall},
})

func capacity(s *suite) error {
	var got struct {
		Memory uint64 `json:"memory_in_bytes"`
		Max    uint64 `json:"max_containers"`
	}
	if err := s.w.call("GET", "/capacity", nil, &got); err != nil {
		return err
	}
	if got.Memory == 0 || got.Max == 0 {
		return fmt.Errorf("capacity %+v: zero", got)
	}
	return nil
}

func createListDestroy(s *suite) error {
	handle, mark := s.handle(), s.handle()
	err := s.create(map[string]any{"handle": handle, "properties": map[string]string{"go:mark.x": mark}})
	if err != nil {
		return err
	}
	with, err1 := s.list(url.Values{"go:mark.x": {mark}})
	other, err2 := s.list(url.Values{"go:mark.x": {"another"}})
	both, err3 := s.list(url.Values{"go:mark.x": {mark}, "absent": {"x"}})
	err4 := s.destroy(handle)
	after, err5 := s.list(url.Values{"go:mark.x": {mark}})
	return first(err1, err2, err3, err4, err5,
		equal("handles with the property", fmt.Sprint(with), fmt.Sprint([]string{handle})),
		equal("handles with another value", len(other), 0),
		equal("handles with both properties", len(both), 0),
		equal("handles after destroy", len(after), 0))
}

func duplicateHandle(s *suite) error {
	return s.in(nil, func(handle string) error {
		err := s.create(map[string]any{"handle": handle})
		return first(
			refused(err, "", fmt.Sprintf("Handle '%s' already in use", handle)),
			s.sh(handle, "echo still here", 0, "still here\n"))
	})
}

func missingImage(s *suite) error {
	handle := s.handle()
	err := s.create(map[string]any{"handle": handle, "image": map[string]string{"uri": "/no/such/rootfs"}})
	if err := refused(err, "", "/no/such/rootfs"); err != nil {
		return err
	}
	handles, err := s.list(url.Values{"garden.state": {"all"}})
	return first(err, equal("is listed", slices.Contains(handles, handle), false))
}

func unknownHandle(s *suite) error {
	check := func(err error) error { return refused(err, "ContainerNotFoundError", "unknown handle: nobody") }
	_, runErr := s.w.run("nobody", shell("true", ""), nil)
	_, outErr := s.w.request("GET", "/containers/nobody/files?user=&source=%2F", "", nil)
	return first(
		check(s.destroy("nobody")),
		check(s.w.call("GET", "/containers/nobody/info", nil, nil)),
		check(s.w.call("PUT", "/containers/nobody/stop", map[string]bool{"kill": true}, nil)),
		check(s.w.call("POST", "/containers/nobody/net/in", map[string]any{"handle": "nobody"}, nil)),
		check(runErr), check(outErr))
}

func info(s *suite) error {
	spec := map[string]any{"properties": map[string]string{"k": "v"}}
	return s.in(spec, func(handle string) error {
		var got struct {
			State, HostIP, ContainerIP, ExternalIP string
			Events                                 []string
			Properties                             map[string]string
		}
		if err := s.w.call("GET", path("containers", handle, "info"), nil, &got); err != nil {
			return err
		}
		if got.HostIP == "" || got.ContainerIP == "" || got.HostIP == got.ContainerIP {
			return fmt.Errorf("addresses %q and %q", got.HostIP, got.ContainerIP)
		}
		return first(equal("state", got.State, "active"), equal("property", got.Properties["k"], "v"),
			equal("events", len(got.Events), 0))
	})
}

func properties(s *suite) error {
	return s.in(nil, func(handle string) error {
		where := path("containers", handle, "properties")
		var one struct {
			Value string `json:"value"`
		}
		var all map[string]string
		set := func(key, value string) error {
			return s.w.call("PUT", where+path(key), map[string]string{"value": value}, nil)
		}
		err := first(
			set("a:b.c", "one"), set("odd key/é", "two <&>"), set("a:b.c", "three"),
			s.w.call("GET", where+path("odd key/é"), nil, &one),
			s.w.call("GET", where, nil, &all))
		if err != nil {
			return err
		}
		return first(
			equal("odd key", one.Value, "two <&>"),
			equal("property set twice", all["a:b.c"], "three"),
			s.w.call("DELETE", where+path("a:b.c"), nil, nil),
			refused(s.w.call("GET", where+path("a:b.c"), nil, nil), "", "a:b.c"),
			refused(s.w.call("DELETE", where+path("a:b.c"), nil, nil), "", "a:b.c"))
	})
}

func bulkInfo(s *suite) error {
	return s.in(nil, func(one string) error {
		return s.in(nil, func(two string) error {
			var got map[string]struct {
				Info struct{ State string }
				Err  *wireError
			}
			query := url.Values{"handles": {strings.Join([]string{one, two, "nobody"}, ",")}}
			if err := s.w.call("GET", "/containers/bulk_info?"+query.Encode(), nil, &got); err != nil {
				return err
			}
			if got["nobody"].Err == nil {
				return errors.New("no error for the unknown handle")
			}
			return first(equal("entries", len(got), 3),
				equal("first", got[one].Info.State, "active"), equal("second", got[two].Info.State, "active"),
				equal("unknown", got["nobody"].Err.Type, "ContainerNotFoundError"))
		})
	})
}

func metrics(s *suite) error {
	return s.in(nil, func(handle string) error {
		type numbers struct {
			CPUStat    struct{ Usage uint64 }
			MemoryStat struct{ TotalUsageTowardLimit uint64 }
			PidStat    struct{ Current uint64 }
			Age        int64
		}
		var one numbers
		var bulk map[string]struct {
			Metrics numbers
			Err     *wireError
		}
		if err := first(s.sh(handle, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", 0, ""),
			s.w.call("GET", path("containers", handle, "metrics"), nil, &one),
			s.w.call("GET", "/containers/bulk_metrics?handles="+handle, nil, &bulk)); err != nil {
			return err
		}
		if one.CPUStat.Usage == 0 || one.Age == 0 || bulk[handle].Err != nil || bulk[handle].Metrics.CPUStat.Usage == 0 {
			return fmt.Errorf("zero where work was done: %+v, in bulk %+v", one, bulk)
		}
		return nil
	})
}

func limits(s *suite) error {
	spec := map[string]any{"limits": map[string]any{
		"memory_limits": map[string]uint64{"limit_in_bytes": 64 << 20},
		"pid_limits":    map[string]uint64{"max": 40},
	}}
	return s.in(spec, func(handle string) error {
		var memory struct {
			Limit uint64 `json:"limit_in_bytes"`
		}
		err := s.w.call("GET", path("containers", handle, "limits", "memory"), nil, &memory)
		return first(err, equal("memory limit", memory.Limit, 64<<20))
	})
}

func netIn(s *suite) error {
	return s.in(nil, func(handle string) error {
		var ports struct {
			Host      uint32 `json:"host_port"`
			Container uint32 `json:"container_port"`
		}
		request := map[string]any{"handle": handle, "host_port": 0, "container_port": 8080}
		if err := s.w.call("POST", path("containers", handle, "net", "in"), request, &ports); err != nil {
			return err
		}
		line := "mkdir -p /tmp/www && echo hello from inside > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"
		p, err := s.w.run(handle, shell(line, ""), nil)
		if err != nil {
			return err
		}
		defer p.detach()
		page, err := fetch(fmt.Sprintf("http://127.0.0.1:%d/", ports.Host))
		var known struct {
			MappedPorts []struct{ HostPort, ContainerPort uint32 }
		}
		if err != nil {
			return fmt.Errorf("fetch through host port %d: %w", ports.Host, err)
		}
		err = s.w.call("GET", path("containers", handle, "info"), nil, &known)
		return first(err, equal("container port", ports.Container, 8080), equal("page", page, "hello from inside\n"),
			equal("mapped ports in info", fmt.Sprint(known.MappedPorts), fmt.Sprintf("[{%d 8080}]", ports.Host)))
	})
}

// fetch gets a page, giving the server in the container a moment to listen.
func fetch(url string) (string, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		response, err := client.Get(url)
		if err == nil {
			page, err := io.ReadAll(response.Body)
			response.Body.Close()
			return string(page), err
		}
		if time.Now().After(deadline) {
			return "", err
		}
	}
}

func stop(s *suite) error {
	return s.in(nil, func(handle string) error {
		p, err := s.w.run(handle, shell("echo up; exec sleep 1000", ""), nil)
		if err != nil {
			return err
		}
		if err := s.w.call("PUT", path("containers", handle, "stop"), map[string]bool{"kill": false}, nil); err != nil {
			return err
		}
		status, _, _, err := p.finish()
		var got struct{ State string }
		if err != nil {
			return err
		}
		err = s.w.call("GET", path("containers", handle, "info"), nil, &got)
		// 143 once sleep has begun, and the same for the shell before it.
		return first(err, equal("status", status, 143), equal("state", got.State, "stopped"))
	})
}

func graceTime(s *suite) error {
	return s.in(nil, func(kept string) error {
		short := s.handle()
		err := first(s.create(map[string]any{"handle": short}),
			s.w.call("PUT", path("containers", kept, "grace_time"), 0, nil),
			s.w.call("PUT", path("containers", short, "grace_time"), int64(300*time.Millisecond), nil))
		if err != nil {
			return err
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			// List does not hold the clock; a request on the container itself would.
			handles, err := s.list(url.Values{"garden.state": {"all"}})
			if err != nil {
				return err
			}
			if !slices.Contains(handles, short) {
				return equal("the one with grace time 0 lives", slices.Contains(handles, kept), true)
			}
			if time.Now().After(deadline) {
				return errors.New("outlived its grace time")
			}
		}
	})
}

func concurrentLives(s *suite) error {
	results := make(chan error, 8)
	for n := range 8 {
		go func() {
			results <- s.in(nil, func(handle string) error {
				text := fmt.Sprintf("life %d", n)
				return s.sh(handle, "echo "+text+"; exit 3", 3, text+"\n")
			})
		}()
	}
	var all error
	for range 8 {
		one, err := within("end of a life", results)
		all = errors.Join(all, one, err)
	}
	return all
}
