package paternoster

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "paternoster/clients/go/paternosterv1"
)

// fail is an attempt that ends with a status.
type fail struct {
	code       codes.Code
	reason     string
	retryAfter time.Duration
	pushback   string
}

func (f fail) err() error {
	details := status.New(f.code, "as the script says")
	details, _ = details.WithDetails(&errdetails.ErrorInfo{Reason: f.reason, Domain: "paternoster.v1"})
	if f.retryAfter > 0 {
		details, _ = details.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.retryAfter)})
	}
	return details.Err()
}

// waiting is an attempt that goes on until its caller ends it.
type waiting struct{}

// flaky does what a script says, attempt by attempt.
type flaky struct {
	pb.UnimplementedInferenceServer
	script [][]any

	lock     sync.Mutex
	metadata []metadata.MD
	timeLeft []time.Duration
}

func (f *flaky) Generate(_ *pb.GenerateRequest, stream pb.Inference_GenerateServer) error {
	return f.step(stream.Context(), stream.SetTrailer, stream.Send)
}

func (f *flaky) Complete(ctx context.Context, _ *pb.GenerateRequest) (*pb.CompleteResponse, error) {
	trailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }
	err := f.step(ctx, trailer, func(*pb.GenerateResponse) error { return nil })
	return &pb.CompleteResponse{Completions: []*pb.Completion{{Text: "ab"}}}, err
}

func (f *flaky) step(ctx context.Context, trailer func(metadata.MD), send func(*pb.GenerateResponse) error) error {
	f.lock.Lock()
	actions := f.script[len(f.metadata)]
	sent, _ := metadata.FromIncomingContext(ctx)
	end, _ := ctx.Deadline()
	f.metadata = append(f.metadata, sent)
	f.timeLeft = append(f.timeLeft, time.Until(end))
	f.lock.Unlock()
	for _, action := range actions {
		switch action := action.(type) {
		case fail:
			if action.pushback != "" {
				trailer(metadata.Pairs("grpc-retry-pushback-ms", action.pushback))
			}
			return action.err()
		case waiting:
			<-ctx.Done()
			return ctx.Err()
		case *pb.GenerateResponse:
			if err := send(action); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait waits until so many calls have come; how many there are.
func (f *flaky) wait(count int) int {
	for {
		f.lock.Lock()
		seen := len(f.metadata)
		f.lock.Unlock()
		if seen >= count {
			return seen
		}
		time.Sleep(time.Millisecond)
	}
}

func serve(t *testing.T, script [][]any, options ...Option) (*flaky, *Client) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), &flaky{script: script}
	pb.RegisterInferenceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	client, err := Dial(listener.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return service, client
}

var (
	started  = &pb.GenerateResponse{Event: &pb.GenerateResponse_Started{Started: &pb.Started{}}}
	delta    = &pb.GenerateResponse{Event: &pb.GenerateResponse_Delta{Delta: &pb.Delta{Text: "ab"}}}
	finished = &pb.GenerateResponse{Event: &pb.GenerateResponse_Finished{Finished: &pb.Finished{}}}
	good     = []any{started, delta, finished}
	gone     = fail{code: codes.Unavailable, reason: "DRAINING"}
	full     = fail{code: codes.ResourceExhausted, reason: "QUEUE_FULL", retryAfter: time.Millisecond}
	quick    = WithRetry(Retry{Attempts: 4, First: time.Millisecond, Longest: time.Second})
)

type attempts struct {
	name   string
	script [][]any
	count  int
	err    error
}

var beforeTheFirstToken = []attempts{
	{"nothing fails", [][]any{good}, 1, nil},
	{"unavailable, then not", [][]any{{gone}, {gone}, good}, 3, nil},
	{"overloaded with a hint", [][]any{{full}, good}, 2, nil},
	{"overloaded without a hint", [][]any{{fail{code: codes.ResourceExhausted}}, good}, 1, ErrOverloaded},
	{"too large", [][]any{{fail{code: codes.ResourceExhausted, reason: "MESSAGE_TOO_LARGE"}}, good}, 1, ErrInvalid},
	{"a fault", [][]any{{fail{code: codes.Internal}}, good}, 1, ErrGeneration},
	{"no key", [][]any{{fail{code: codes.Unauthenticated}}, good}, 1, ErrUnauthenticated},
	{"four attempts and no more", [][]any{{gone}, {gone}, {gone}, {gone}, good}, 4, ErrUnavailable},
	{"pushed back", [][]any{{fail{code: codes.Unavailable, pushback: "1"}}, good}, 2, nil},
	{"pushed back for good", [][]any{{fail{code: codes.Unavailable, pushback: "-1"}}, good}, 1, ErrUnavailable},
	{"pushed back past the deadline", [][]any{{fail{code: codes.Unavailable, pushback: "3600000"}}, good}, 1, ErrUnavailable},
	{"pushed back by garbage", [][]any{{fail{code: codes.Unavailable, pushback: "soon"}}, good}, 1, ErrUnavailable},
}

var inAStream = []attempts{
	{"started is not a token", [][]any{{started, gone}, good}, 2, nil},
	{"after the first token", [][]any{{started, delta, gone}, good}, 1, ErrIncomplete},
	{"a fault after it", [][]any{{started, delta, fail{code: codes.Internal}}, good}, 1, ErrIncomplete},
	{"a good end too early", [][]any{{started, delta}, good}, 1, ErrIncomplete},
	{"a good end before all", [][]any{{}, good}, 1, ErrIncomplete},
}

func TestWholeAnswersAreTriedAgain(t *testing.T) {
	for _, one := range beforeTheFirstToken {
		one.check(t, func(client *Client) (string, error) {
			answer, err := client.Complete(t.Context(), Prompt("x", 1))
			if err != nil {
				return "", err
			}
			return answer.GetCompletions()[0].GetText(), nil
		})
	}
}

func TestStreamsAreTriedAgainBeforeTheFirstToken(t *testing.T) {
	for _, one := range slices.Concat(beforeTheFirstToken, inAStream) {
		one.check(t, func(client *Client) (string, error) {
			return Text(client.Generate(t.Context(), Prompt("x", 1)))
		})
	}
}

func (a attempts) check(t *testing.T, ask func(*Client) (string, error)) {
	t.Run(a.name, func(t *testing.T) {
		service, client := serve(t, a.script, quick)
		text, err := ask(client)
		if a.err == nil && (err != nil || text != "ab") {
			t.Errorf("%q, %v", text, err)
		}
		if !errors.Is(err, a.err) {
			t.Errorf("%v is not %v", err, a.err)
		}
		var typed *Error
		if err != nil && (!errors.As(err, &typed) || typed.RequestID != service.metadata[0].Get(requestIDKey)[0]) {
			t.Errorf("no request id in %v", err)
		}
		if len(service.metadata) != a.count {
			t.Errorf("%d attempts, not %d", len(service.metadata), a.count)
		}
	})
}

func TestAllAttemptsShareOneNameAndOneDeadline(t *testing.T) {
	// A second in all, of which a busy machine may add to the first attempt and take from the last.
	wait := fail{code: codes.Unavailable, pushback: "500"}
	service, client := serve(t, [][]any{{wait}, {wait}, good}, WithAPIKey("secret"))
	ctx := metadata.AppendToOutgoingContext(t.Context(), requestIDKey, "mine")
	if _, err := client.Complete(ctx, Prompt("x", 1)); err != nil {
		t.Fatal(err)
	}
	first, last := service.timeLeft[0], service.timeLeft[2]
	if first > DefaultTimeout || first < DefaultTimeout-10*time.Second || last > first-500*time.Millisecond {
		t.Errorf("deadlines %v", service.timeLeft)
	}
	for _, sent := range service.metadata {
		if !slices.Equal(sent.Get(requestIDKey), []string{"mine"}) {
			t.Errorf("names %v", sent.Get(requestIDKey))
		}
		if !slices.Equal(sent.Get("authorization"), []string{"Bearer secret"}) {
			t.Error("no key")
		}
	}
}

func TestAnErrorSaysWhatTheServerSaid(t *testing.T) {
	_, client := serve(t, [][]any{{full}}, WithRetry(Retry{Attempts: 1}))
	_, err := client.Complete(t.Context(), Prompt("x", 1))
	var typed *Error
	if !errors.As(err, &typed) || typed.Reason != "QUEUE_FULL" || typed.RetryAfter != time.Millisecond {
		t.Errorf("%v", err)
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("gRPC's own code: %v", status.Code(err))
	}
}

func TestAnotherLoopIsAnotherCall(t *testing.T) {
	service, client := serve(t, [][]any{good, good})
	var events iter.Seq2[*pb.GenerateResponse, error] = client.Generate(t.Context(), Prompt("x", 1))
	for range 2 {
		if text, err := Text(events); text != "ab" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	}
	if len(service.metadata) != 2 {
		t.Errorf("%d calls", len(service.metadata))
	}
}
