package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A server that agrees to everything and does nothing must fail every step but ping.
func TestAServerThatOnlyAgreesFails(t *testing.T) {
	patience = time.Second
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, "{}")
	}))
	defer server.Close()
	var out strings.Builder
	failed := runSteps(&suite{w: newWire("tcp", server.Listener.Addr().String()), prefix: "t"}, steps, true, &out)
	if failed != len(steps)-1 || !strings.HasPrefix(out.String(), "ok ping\nFAIL capacity: ") {
		t.Fatalf("%d of %d failed:\n%s", failed, len(steps), &out)
	}
}

// So must one that hangs, each step naming what it waited for.
func TestAServerThatHangsFails(t *testing.T) {
	patience = 50 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	w := newWire("tcp", listener.Addr().String())
	w.client.Timeout = patience
	if err := w.call("GET", "/ping", nil, nil); err == nil || !strings.Contains(err.Error(), "Timeout") {
		t.Fatalf("ping of a server that hangs: %v", err)
	}
	if _, err := within("answer", make(chan int)); err == nil || err.Error() != "no answer within 50ms" {
		t.Fatalf("within: %v", err)
	}
}

// Ordinary requests go out as the official client's do, and streams as its streams do.
func TestRequestsCarryTheHeadersOfTheOfficialClient(t *testing.T) {
	patience = time.Second
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprintf("%s close=%t encoding=%q", r.Method, r.Close, r.Header.Get("Accept-Encoding")))
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintln(w, "{}")
	}))
	defer server.Close()
	w := newWire("tcp", server.Listener.Addr().String())
	_ = w.call("GET", "/ping", nil, nil)
	_ = w.call("PUT", "/containers/c/stop", map[string]bool{}, nil)
	_, _ = w.run("c", map[string]any{"path": "cat"}, nil)
	want := `[GET close=true encoding="gzip" PUT close=true encoding="gzip" POST close=false encoding=""]`
	if got := fmt.Sprint(seen); got != want || w.dials.Load() != 3 {
		t.Fatalf("%d connections, requests %s; want %s", w.dials.Load(), got, want)
	}
}
