package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// wire speaks the protocol as the captures in ../wire show it: ordinary requests each on a connection of their own
// with "Connection: close", streams through httputil.ClientConn, which refuses whatever a Go client would refuse.
type wire struct {
	network, address string
	client           *http.Client
	dials            atomic.Int64 // connections made
	requests         atomic.Int64 // requests sent, streams included
	made             callsMade
}

// wireError is the server's typed error.
type wireError struct {
	Type, Message, Handle, ProcessID, Binary string
}

func (e *wireError) Error() string {
	if e.Type == "" {
		return e.Message
	}
	return e.Type + ": " + e.Message
}

func newWire(network, address string) *wire {
	w := &wire{network: network, address: address}
	w.client = &http.Client{Transport: &http.Transport{
		Dial:              func(string, string) (net.Conn, error) { return w.dial() },
		DisableKeepAlives: true,
	}}
	return w
}

func (w *wire) dial() (net.Conn, error) {
	w.dials.Add(1)
	return net.DialTimeout(w.network, w.address, 2*time.Second)
}

// path joins escaped segments.
func path(segments ...string) string {
	var p strings.Builder
	for _, s := range segments {
		p.WriteString("/" + url.PathEscape(s))
	}
	return p.String()
}

// call does one ordinary request; in and out may be nil.
func (w *wire) call(method, path string, in, out any) error {
	var body io.Reader
	contentType := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, contentType = bytes.NewReader(b), "application/json"
	}
	response, err := w.request(method, path, contentType, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// request sends and returns a response whose status is good; its body is the caller's to close.
func (w *wire) request(method, path, contentType string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequest(method, "http://api"+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	w.note(request)
	response, err := w.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, readError(response)
	}
	return response, nil
}

func (w *wire) note(request *http.Request) {
	w.requests.Add(1)
	w.made.note(request.Method, request.URL.EscapedPath())
}

func readError(response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("status %d, and its body: %w", response.StatusCode, err)
	}
	var e wireError
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("status %d, body %q is no error document: %w", response.StatusCode, body, err)
	}
	return &e
}

// hijack does a request whose connection becomes a raw stream in both directions. The connection has a deadline, so
// that a server that hangs here is found out; whoever goes on with the stream takes it off.
func (w *wire) hijack(method, path string, in any) (net.Conn, io.Reader, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, nil, err
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequest(method, "http://api"+path, body)
	if err != nil {
		return nil, nil, err
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	w.note(request)
	conn, err := w.dial()
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		conn.Close()
		return nil, nil, err
	}
	// Deprecated, and the point of it: what it refuses is part of the contract.
	client := httputil.NewClientConn(conn, nil)
	response, err := client.Do(request)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if response.StatusCode/100 != 2 {
		defer conn.Close()
		return nil, nil, readError(response)
	}
	raw, reader := client.Hijack()
	return raw, reader, nil
}
