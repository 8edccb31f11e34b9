package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// payload is a message on the stream that carries a process.
type payload struct {
	ProcessID  string  `json:"process_id,omitempty"`
	StreamID   string  `json:"stream_id,omitempty"`
	Source     *int    `json:"source,omitempty"`
	Data       *string `json:"data,omitempty"`
	ExitStatus *int    `json:"exit_status,omitempty"`
	Error      *string `json:"error,omitempty"`
	Signal     *int    `json:"signal,omitempty"`
	TTY        *tty    `json:"tty,omitempty"`
}

// tty is a terminal, in the spec of a process and in a message that changes its size.
type tty struct {
	WindowSize *windowSize `json:"window_size,omitempty"`
}

type windowSize struct {
	Columns int `json:"columns,omitempty"`
	Rows    int `json:"rows,omitempty"`
}

// Signals as the wire numbers them.
const (
	signalTerminate = 0
	signalKill      = 1
)

// process is one client's view of a running or ended process.
type process struct {
	id             string
	made           *callsMade
	control        net.Conn
	write          sync.Mutex
	stdout, stderr chan string // everything that came, sent once at the end of the stream
	exit           chan exitResult
}

type exitResult struct {
	status int
	err    error
}

// run starts a process; attach joins one. Both open stdout and stderr at once and collect them.
func (w *wire) run(handle string, spec map[string]any, live io.Writer) (*process, error) {
	return w.follow(handle, "POST", path("containers", handle, "processes"), spec, true, live)
}

// start starts a process whose output nobody asks for, as the official client does where it is given no writers.
func (w *wire) start(handle string, spec map[string]any) (*process, error) {
	return w.follow(handle, "POST", path("containers", handle, "processes"), spec, false, nil)
}

func (w *wire) attach(handle, id string, live io.Writer) (*process, error) {
	return w.follow(handle, "GET", path("containers", handle, "processes", id), nil, true, live)
}

func (w *wire) follow(handle, method, where string, spec map[string]any, outputs bool, live io.Writer) (*process, error) {
	var in any
	if spec != nil {
		in = spec
	}
	conn, reader, err := w.hijack(method, where, in)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(reader)
	var first payload
	if err := decoder.Decode(&first); err != nil {
		conn.Close()
		return nil, fmt.Errorf("first payload: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	p := &process{id: first.ProcessID, made: &w.made, control: conn, exit: make(chan exitResult, 1)}
	for _, stream := range []struct {
		name string
		to   *chan string
		live io.Writer
	}{{"stdout", &p.stdout, live}, {"stderr", &p.stderr, nil}} {
		*stream.to = make(chan string, 1)
		if !outputs {
			*stream.to <- ""
			continue
		}
		out, reader, err := w.hijack("GET", path("containers", handle, "processes", p.id, "attaches", first.StreamID, stream.name), nil)
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("%s: %w", stream.name, err)
		}
		go collect(out, reader, stream.live, *stream.to)
	}
	go p.wait(decoder)
	return p, nil
}

func collect(conn net.Conn, from io.Reader, live io.Writer, to chan<- string) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		to <- "[" + err.Error() + "]"
		return
	}
	if live != nil {
		from = io.TeeReader(from, live)
	}
	all, err := io.ReadAll(from)
	if err != nil {
		all = append(all, ("[stream broke: " + err.Error() + "]")...)
	}
	to <- string(all)
}

func (p *process) wait(decoder *json.Decoder) {
	defer p.control.Close()
	for {
		var message payload
		err := decoder.Decode(&message)
		switch {
		case err != nil:
			p.exit <- exitResult{0, fmt.Errorf("connection: decode failed: %w", err)}
		case message.Error != nil:
			p.exit <- exitResult{0, errors.New(*message.Error)}
		case message.ExitStatus != nil:
			p.exit <- exitResult{*message.ExitStatus, nil}
		default:
			continue
		}
		return
	}
}

func (p *process) send(message payload) error {
	p.write.Lock()
	defer p.write.Unlock()
	message.ProcessID = p.id
	return json.NewEncoder(p.control).Encode(message)
}

func (p *process) stdin(data string) error {
	source := 0
	return p.send(payload{Source: &source, Data: &data})
}

func (p *process) closeStdin() error {
	source := 0
	return p.send(payload{Source: &source})
}

func (p *process) signal(number int) error {
	p.made.note("message", "/signal")
	return p.send(payload{Signal: &number})
}

func (p *process) setTTY(columns, rows int) error {
	p.made.note("message", "/tty")
	return p.send(payload{TTY: &tty{&windowSize{columns, rows}}})
}

// detach leaves without ending the process.
func (p *process) detach() { p.control.Close() }

// finish waits for exit status and the ends of both outputs.
func (p *process) finish() (status int, stdout, stderr string, err error) {
	result, err := within("exit status", p.exit)
	if err == nil {
		err = result.err
	}
	if err != nil {
		return 0, "", "", err
	}
	if stdout, err = within("end of stdout", p.stdout); err != nil {
		return 0, "", "", err
	}
	stderr, err = within("end of stderr", p.stderr)
	return result.status, stdout, stderr, err
}
