package paternoster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	pb "paternoster/clients/go/paternosterv1"
)

// real is a client of the server of the demo models at PATERNOSTER_ADDRESS.
func real(t *testing.T) *Client {
	t.Helper()
	address := os.Getenv("PATERNOSTER_ADDRESS")
	if address == "" {
		t.Fatal("PATERNOSTER_ADDRESS names no server; clients/run.sh starts one")
	}
	client, err := Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func endless(text string) *pb.GenerateRequest {
	request := Prompt(text, 2000)
	request.Stopping.IgnoreEos = true
	return request
}

func waitIdle(t *testing.T, client *Client) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		answer, err := client.Control.GetLoad(t.Context(), &pb.GetLoadRequest{})
		if err != nil {
			t.Fatal(err)
		}
		load := answer.GetLoads()[0]
		if load.GetRunningSequences()+load.GetWaitingRequests()+load.GetKvBlocksActive() == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still at work: %v", load)
		}
	}
}

func TestAThousandLoopsThatWereLeftLeaveNothing(t *testing.T) {
	client := real(t)
	var loops sync.WaitGroup
	places := make(chan struct{}, 16)
	for number := range 1000 {
		places <- struct{}{}
		loops.Go(func() {
			defer func() { <-places }()
			for event, err := range client.Generate(t.Context(), endless(fmt.Sprintf("Count from %d.", number))) {
				if err != nil {
					t.Error(err)
				}
				if event.GetDelta() != nil {
					return
				}
			}
			t.Error("no delta")
		})
	}
	loops.Wait()
	waitIdle(t, client)
}

func TestAContextEndsAStream(t *testing.T) {
	client := real(t)
	for _, end := range []struct {
		make func() (context.Context, context.CancelFunc)
		want error
	}{
		{func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 50*time.Millisecond)
		}, ErrDeadlineExceeded},
		{func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		}, ErrCancelled},
	} {
		ctx, cancel := end.make()
		_, err := Text(client.Generate(ctx, endless("Hello")))
		cancel()
		if !errors.Is(err, end.want) {
			t.Errorf("%v is not %v", err, end.want)
		}
	}
	waitIdle(t, client)
}

func TestTenThousandBatchesInOneStream(t *testing.T) {
	client := real(t)
	batches := func(yield func(*pb.EmbedRequest) bool) {
		for number := range 10_000 {
			if !yield(&pb.EmbedRequest{Inputs: []string{fmt.Sprintf("text %d", number)}}) {
				return
			}
		}
	}
	answers := 0
	for answer, err := range client.EmbedStream(t.Context(), batches) {
		if err != nil {
			t.Fatal(err)
		}
		answers += len(answer.GetEmbeddings())
	}
	if answers != 10_000 {
		t.Errorf("%d answers", answers)
	}
}

func TestNobodyThere(t *testing.T) {
	client, err := Dial("127.0.0.1:1", quick)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Embed(t.Context(), "Hello"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}
