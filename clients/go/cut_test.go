package paternoster

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// relay is a way to a server that can be cut; it then lets new connections through.
type relay struct {
	address string

	lock sync.Mutex
	near []*net.TCPConn
}

func relayTo(t *testing.T, server string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	made := &relay{address: listener.Addr().String()}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			made.lock.Lock()
			made.near = append(made.near, near.(*net.TCPConn))
			made.lock.Unlock()
			go join(near, server)
		}
	}()
	return made
}

// join carries a connection to a server until one of them ends.
func join(near net.Conn, server string) {
	defer near.Close()
	far, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}

// cut ends all connections: by RST, or by FIN.
func (r *relay) cut(reset bool) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, near := range r.near {
		if reset {
			_ = near.SetLinger(0)
		}
		_ = near.Close()
	}
	r.near = nil
}

// through connects to a server by a relay.
func through(t *testing.T, script [][]any) (*flaky, *relay, *Client) {
	t.Helper()
	service, direct := serve(t, script)
	way := relayTo(t, direct.connection.Target())
	client, err := Dial(way.address, quick)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return service, way, client
}

var asks = map[string]func(context.Context, *Client) (string, error){
	"whole": func(ctx context.Context, client *Client) (string, error) {
		answer, err := client.Complete(ctx, Prompt("x", 1))
		if err != nil {
			return "", err
		}
		return answer.GetCompletions()[0].GetText(), nil
	},
	"streamed": func(ctx context.Context, client *Client) (string, error) {
		return Text(client.Generate(ctx, Prompt("x", 1)))
	},
}

func TestAConnectionThatBreaksBeforeTheFirstTokenIsTriedAgain(t *testing.T) {
	for name, ask := range asks {
		for _, reset := range []bool{false, true} {
			service, way, client := through(t, [][]any{{started, waiting{}}, good})
			go func() {
				service.wait(1)
				way.cut(reset)
			}()
			if text, err := ask(t.Context(), client); text != "ab" || err != nil {
				t.Errorf("%s, reset %v: %q, %v", name, reset, text, err)
			}
			if count := service.wait(2); count != 2 {
				t.Errorf("%s, reset %v: %d attempts", name, reset, count)
			}
		}
	}
}

func TestAConnectionThatBreaksAfterItLeavesTheAnswerIncomplete(t *testing.T) {
	for _, reset := range []bool{false, true} {
		service, way, client := through(t, [][]any{{started, delta, waiting{}}, good})
		var last error
		for event, err := range client.Generate(t.Context(), Prompt("x", 1)) {
			if event.GetDelta() != nil {
				way.cut(reset)
			}
			last = err
		}
		if !errors.Is(last, ErrIncomplete) {
			t.Errorf("reset %v: %v", reset, last)
		}
		if count := service.wait(1); count != 1 {
			t.Errorf("reset %v: %d attempts", reset, count)
		}
	}
}

func TestAServerThatLeavesWithoutLookingAtACallGetsItElsewhere(t *testing.T) {
	for name, ask := range asks {
		service, direct := serve(t, [][]any{good})
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if first, err := listener.Accept(); err == nil {
				go leave(first)
			}
			if second, err := listener.Accept(); err == nil {
				join(second, direct.connection.Target())
			}
		}()
		client, err := Dial(listener.Addr().String(), quick)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := ask(t.Context(), client); text != "ab" || err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if count := service.wait(1); count != 1 {
			t.Errorf("%s: %d attempts", name, count)
		}
		_, _ = client.Close(), listener.Close()
	}
}

// leave sends SETTINGS, and once a call has come a GOAWAY that says none was looked at.
func leave(connection net.Conn) {
	defer connection.Close()
	_, _ = connection.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	_, _ = io.CopyN(io.Discard, connection, 24)
	for kind := byte(0); kind != 1; {
		head := make([]byte, 9)
		if _, err := io.ReadFull(connection, head); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		_, _ = io.CopyN(io.Discard, connection, length)
		kind = head[3]
	}
	_, _ = connection.Write([]byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	_, _ = io.Copy(io.Discard, connection)
}

func TestAPauseThatTheCallerEndsIsCancelled(t *testing.T) {
	for name, ask := range asks {
		service, client := serve(t, [][]any{{fail{code: codes.Unavailable, pushback: "20000"}}, good})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			service.wait(1)
			cancel()
		}()
		if _, err := ask(ctx, client); !errors.Is(err, ErrCancelled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestPausesStayWithinTheirBounds(t *testing.T) {
	slow := Retry{Attempts: 1 << 20, First: time.Hour, Longest: 2 * time.Hour}
	for _, attempt := range []int{2, 31, 1 << 19} {
		pause, again := slow.pause(attempt, &Error{Code: codes.Unavailable})
		if !again || pause < time.Hour || pause > 3*time.Hour {
			t.Errorf("%d: %v, %v", attempt, pause, again)
		}
	}
	if pause, again := slow.pause(1, &Error{Code: codes.ResourceExhausted, HasRetryAfter: true, RetryAfter: -time.Hour}); pause != 0 || !again {
		t.Errorf("a time that has passed: %v, %v", pause, again)
	}
}
