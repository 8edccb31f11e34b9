package main

import (
	"fmt"
	"net/url"
	"slices"
)

// What the other steps do not call by the way.
var callSteps = []step{
	{"lookup: by listing all", anywhere, lookup},
	{"limits: all four kinds", anywhere, allLimits},
	{"net out: one rule and several", anywhere, netOut},
	{"bulk metrics: an unknown handle", anywhere, bulkMetrics},
	{"errors: every call names an unknown handle", anywhere, everyCallRefused},
	{"terminal: its size and a new one", onKernel, terminal},
	{"health check: as Diego does it", anywhere, healthCheck},
}

func lookup(s *suite) error {
	return s.in(nil, func(handle string) error {
		all, err := s.list(nil)
		return first(err, equal("is listed", slices.Contains(all, handle), true),
			equal("is listed without having been made", slices.Contains(all, handle+"x"), false))
	})
}

func allLimits(s *suite) error {
	spec := map[string]any{"limits": map[string]any{
		"cpu_limits":    map[string]uint64{"limit_in_shares": 512},
		"memory_limits": map[string]uint64{"limit_in_bytes": 64 << 20},
	}}
	return s.in(spec, func(handle string) error {
		get := func(kind string) (map[string]uint64, error) {
			got := map[string]uint64{}
			return got, s.w.call("GET", path("containers", handle, "limits", kind), nil, &got)
		}
		for kind, want := range map[string]map[string]uint64{
			"memory": {"limit_in_bytes": 64 << 20}, "cpu": {"limit_in_shares": 512}, "disk": {}, "bandwidth": {},
		} {
			got, err := get(kind)
			if err := first(err, equal(kind, fmt.Sprint(got), fmt.Sprint(want))); err != nil {
				return err
			}
		}
		return nil
	})
}

func netOut(s *suite) error {
	rule := map[string]any{
		"protocol": 1, "log": true,
		"networks": []map[string]string{{"start": "192.0.2.1", "end": "192.0.2.9"}},
		"ports":    []map[string]int{{"start": 80, "end": 81}},
	}
	wrong := map[string]any{"networks": []map[string]string{{"start": "bogus"}}}
	return s.in(map[string]any{"netout_rules": []any{rule}}, func(handle string) error {
		one, bulk := path("containers", handle, "net", "out"), path("containers", handle, "net", "out", "bulk")
		return first(
			s.w.call("POST", one, rule, nil),
			s.w.call("POST", bulk, []any{rule, map[string]any{"protocol": 3}}, nil),
			s.w.call("POST", bulk, []any{}, nil),
			refused(s.w.call("POST", one, wrong, nil), "", "bogus"),
			refused(s.w.call("POST", bulk, []any{rule, wrong}, nil), "", "bogus"))
	})
}

func bulkMetrics(s *suite) error {
	return s.in(nil, func(handle string) error {
		var got map[string]struct {
			Metrics struct {
				MemoryStat struct{ TotalUsageTowardLimit uint64 }
			}
			Err *wireError
		}
		query := url.Values{"handles": {handle + ",nobody"}}
		if err := s.w.call("GET", "/containers/bulk_metrics?"+query.Encode(), nil, &got); err != nil {
			return err
		}
		if got["nobody"].Err == nil || got[handle].Metrics.MemoryStat.TotalUsageTowardLimit == 0 {
			return fmt.Errorf("entries %+v", got)
		}
		return first(equal("entries", len(got), 2), equal("known", got[handle].Err, nil),
			equal("unknown", got["nobody"].Err.Type, "ContainerNotFoundError"),
			equal("its handle", got["nobody"].Err.Handle, "nobody"))
	})
}

func everyCallRefused(s *suite) error {
	nobody := func(rest ...string) string { return path(append([]string{"containers", "nobody"}, rest...)...) }
	files := "?user=&destination=%2Ftmp&source=%2Ftmp"
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"DELETE", nobody(), nil},
		{"PUT", nobody("stop"), map[string]bool{"kill": false}},
		{"GET", nobody("info"), nil},
		{"PUT", nobody("files") + files, "not even a tar"},
		{"GET", nobody("files") + files, nil},
		{"GET", nobody("limits", "bandwidth"), nil},
		{"GET", nobody("limits", "cpu"), nil},
		{"GET", nobody("limits", "disk"), nil},
		{"GET", nobody("limits", "memory"), nil},
		{"POST", nobody("net", "in"), map[string]any{}},
		{"POST", nobody("net", "out"), map[string]any{}},
		{"POST", nobody("net", "out", "bulk"), []any{}},
		{"GET", nobody("metrics"), nil},
		{"PUT", nobody("grace_time"), 1},
		{"GET", nobody("properties"), nil},
		{"GET", nobody("properties", "key"), nil},
		{"PUT", nobody("properties", "key"), map[string]string{"value": "x"}},
		{"DELETE", nobody("properties", "key"), nil},
	} {
		err := refused(s.w.call(c.method, c.path, c.body, nil), "ContainerNotFoundError", "unknown handle: nobody")
		if err != nil {
			return fmt.Errorf("%s %s: %w", c.method, c.path, err)
		}
	}
	_, run := s.w.run("nobody", shell("true", ""), nil)
	_, attach := s.w.attach("nobody", "p", nil)
	return first(refused(run, "ContainerNotFoundError", "nobody"), refused(attach, "ContainerNotFoundError", "nobody"))
}

func terminal(s *suite) error {
	return s.in(nil, func(handle string) error {
		spec := shell("stty size; read line; stty size; exit 6", "")
		spec["tty"] = tty{&windowSize{100, 30}}
		var live watch
		p, err := s.w.run(handle, spec, &live)
		if err != nil {
			return err
		}
		err = first(live.waitFor("30 100\r\n"), p.setTTY(132, 43), p.stdin("\n"))
		status, out, errOut, err2 := p.finish()
		return first(err, err2, equal("status", status, 6), equal("stdout", out, "30 100\r\n43 132\r\n"),
			equal("stderr", errOut, ""))
	})
}

// healthCheck is what decides every ten minutes whether a cell gets more work.
func healthCheck(s *suite) error {
	spec := map[string]any{"properties": map[string]string{"executor:owner": "healthcheck"}}
	return s.in(spec, func(handle string) error {
		p, err := s.w.start(handle, shell("ls > /tmp/test", "vcap"))
		if err != nil {
			return err
		}
		status, _, _, err := p.finish()
		return first(err, equal("status", status, 0), s.sh(handle, "test -f /tmp/test", 0, ""))
	})
}
