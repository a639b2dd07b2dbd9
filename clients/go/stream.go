package paternoster

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"

	pb "paternoster/clients/go/paternosterv1"
)

// Generate continues a prompt and yields what happens: one Started, Deltas, and a Finished for each
// sequence. Leaving the loop ends the work on the server. An error is yielded last; each loop over
// the result is a call of its own.
func (c *Client) Generate(ctx context.Context, request *pb.GenerateRequest) iter.Seq2[*pb.GenerateResponse, error] {
	return func(yield func(*pb.GenerateResponse, error) bool) {
		ctx, cancel, id := c.begin(ctx)
		defer cancel()
		for attempt := 1; ; attempt++ {
			g := generation{yield: yield, id: id, unfinished: int(max(1, request.GetSampling().GetN()))}
			failed := g.run(ctx, c.Inference, request)
			if failed == nil {
				return
			}
			if g.tokens {
				failed.Incomplete = failed.breaks()
			} else {
				failed = c.settings.retry.wait(ctx, attempt, failed)
			}
			if failed != nil {
				yield(nil, failed)
				return
			}
		}
	}
}

// generation is one attempt.
type generation struct {
	yield      func(*pb.GenerateResponse, error) bool
	id         string
	tokens     bool
	unfinished int
}

// run yields the events of one attempt; nil if they ended well or nobody wants more.
func (g *generation) run(ctx context.Context, inference pb.InferenceClient, request *pb.GenerateRequest) *Error {
	stream, err := inference.Generate(ctx, request)
	if err != nil {
		return newError(err, nil, g.id)
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return g.end()
		}
		if err != nil {
			return newError(err, stream.Trailer(), g.id)
		}
		switch event.GetEvent().(type) {
		case *pb.GenerateResponse_Delta:
			g.tokens = true
		case *pb.GenerateResponse_Finished:
			g.tokens = true
			g.unfinished--
		}
		if !g.yield(event, nil) {
			return nil
		}
	}
}

// end: a stream that ended well has finished every sequence.
func (g *generation) end() *Error {
	if g.unfinished <= 0 {
		return nil
	}
	g.tokens = true // not to be tried again: the server believes that it answered
	message := "the stream ended before its sequences did"
	return &Error{Code: codes.DataLoss, Message: message, RequestID: g.id}
}

// Text reads a generation to its end and returns the text of its first sequence.
func Text(events iter.Seq2[*pb.GenerateResponse, error]) (string, error) {
	var text strings.Builder
	for event, err := range events {
		if err != nil {
			return text.String(), err
		}
		if delta := event.GetDelta(); delta.GetIndex() == 0 {
			text.WriteString(delta.GetText())
		}
	}
	return text.String(), nil
}

// embedUnanswered is how many batches are sent ahead of their answers. gRPC sends each as a frame of
// its own, and a server hangs up on a connection that floods it with thousands of tiny ones.
const embedUnanswered = 64

// EmbedStream embeds any number of batches: one answer for each, in order. The batches are read as
// the server takes them, on a goroutine that ends at the first batch after the loop was left. It is
// not tried again, because its input is gone.
func (c *Client) EmbedStream(ctx context.Context, batches iter.Seq[*pb.EmbedRequest]) iter.Seq2[*pb.EmbedResponse, error] {
	return func(yield func(*pb.EmbedResponse, error) bool) {
		ctx, cancel, id := c.begin(ctx)
		stream, err := c.Inference.EmbedStream(ctx)
		if err != nil {
			cancel()
			yield(nil, newError(err, nil, id))
			return
		}
		defer cancel()
		unanswered := make(chan struct{}, embedUnanswered)
		go func() {
			for batch := range batches {
				select {
				case unanswered <- struct{}{}:
				case <-ctx.Done():
					return
				}
				if stream.Send(batch) != nil {
					return // Recv says why
				}
			}
			_ = stream.CloseSend()
		}()
		for {
			answer, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, newError(err, stream.Trailer(), id))
				return
			}
			<-unanswered
			if !yield(answer, nil) {
				return
			}
		}
	}
}
