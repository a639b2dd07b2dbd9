// Package paternoster is a client of a Paternoster model server.
//
//	client, err := paternoster.Dial("localhost:50051")
//	...
//	defer client.Close()
//	for event, err := range client.Generate(ctx, paternoster.Prompt("What is a paternoster?", 64)) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.GetDelta().GetText())
//	}
//
// The messages are those of the contract, in paternosterv1. Every call has a deadline, an id, typed
// errors and the same rule for trying again.
package paternoster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pb "paternoster/clients/go/paternosterv1"
)

// DefaultTimeout is the deadline of a call whose context has none.
const DefaultTimeout = 60 * time.Second

// A large batch of embeddings is larger than the 4 MiB that clients take by default.
const messageBytesMax = 64 << 20

// Client is a connection to a server. It is safe for concurrent use.
type Client struct {
	// Inference is the generated client. Its unary calls have the deadline, the retries and the
	// errors of this package; its streams are plain gRPC, so use Generate and EmbedStream.
	Inference pb.InferenceClient
	// Control is the generated client of what routers and operators call.
	Control pb.ControlClient

	connection *grpc.ClientConn
	settings   settings
}

type settings struct {
	timeout     time.Duration
	retry       Retry
	credentials credentials.TransportCredentials
	dial        []grpc.DialOption
}

// Option changes what a client does.
type Option func(*settings)

// WithAPIKey sends a key with every call.
func WithAPIKey(key string) Option {
	return WithDialOptions(grpc.WithPerRPCCredentials(apiKey(key)))
}

// WithTLS talks TLS. An empty configuration takes the system's roots.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.credentials = credentials.NewTLS(config) }
}

// WithTimeout is the deadline of a call whose context has none, in place of DefaultTimeout.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.timeout = timeout }
}

// WithRetry changes when a call is made again.
func WithRetry(retry Retry) Option {
	return func(s *settings) { s.retry = retry }
}

// WithDialOptions passes options on to gRPC, as the stats handler of OpenTelemetry, which
// propagates traces.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// Dial makes a client of the server at an address like "localhost:50051". It connects when the
// first call does.
func Dial(address string, options ...Option) (*Client, error) {
	s := settings{timeout: DefaultTimeout, retry: DefaultRetry, credentials: insecure.NewCredentials()}
	for _, option := range options {
		option(&s)
	}
	client := &Client{settings: s}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(s.credentials),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
		// The rule for trying again is this package's own, not one that a name server sends.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithChainUnaryInterceptor(client.unary),
	}, s.dial...)
	connection, err := grpc.NewClient(address, dial...)
	if err != nil {
		return nil, err
	}
	client.connection = connection
	client.Inference = pb.NewInferenceClient(connection)
	client.Control = pb.NewControlClient(connection)
	return client, nil
}

// Close closes the connection and ends its calls.
func (c *Client) Close() error { return c.connection.Close() }

// Complete continues a prompt and returns the whole answer.
func (c *Client) Complete(ctx context.Context, request *pb.GenerateRequest) (*pb.CompleteResponse, error) {
	return c.Inference.Complete(ctx, request)
}

// Embed embeds texts with the server's first encoder: one vector for each.
func (c *Client) Embed(ctx context.Context, inputs ...string) ([][]float32, error) {
	answer, err := c.Inference.Embed(ctx, &pb.EmbedRequest{Inputs: inputs})
	if err != nil {
		return nil, err
	}
	vectors := make([][]float32, len(answer.GetEmbeddings()))
	for i, embedding := range answer.GetEmbeddings() {
		vectors[i] = embedding.GetValues()
	}
	return vectors, nil
}

// Prompt is a request for at most maxTokens tokens after a text.
func Prompt(text string, maxTokens uint32) *pb.GenerateRequest {
	return &pb.GenerateRequest{
		Input:    &pb.GenerateRequest_Prompt{Prompt: text},
		Stopping: &pb.Stopping{MaxTokens: &maxTokens},
	}
}

// Chat is a request for at most maxTokens tokens of an answer to a conversation.
func Chat(maxTokens uint32, messages ...*pb.ChatMessage) *pb.GenerateRequest {
	return &pb.GenerateRequest{
		Input:    &pb.GenerateRequest_Chat{Chat: &pb.Chat{Messages: messages}},
		Stopping: &pb.Stopping{MaxTokens: &maxTokens},
	}
}

// begin gives a call its deadline and its id.
func (c *Client) begin(ctx context.Context) (context.Context, context.CancelFunc, string) {
	var id string
	if sent, ok := metadata.FromOutgoingContext(ctx); ok && len(sent.Get(requestIDKey)) > 0 {
		id = sent.Get(requestIDKey)[0]
	} else {
		id = rand.Text()
		ctx = metadata.AppendToOutgoingContext(ctx, requestIDKey, id)
	}
	if _, has := ctx.Deadline(); has {
		ctx, cancel := context.WithCancel(ctx)
		return ctx, cancel, id
	}
	ctx, cancel := context.WithTimeout(ctx, c.settings.timeout)
	return ctx, cancel, id
}

// requestIDKey names a request in the server's log and in this package's errors. A caller may set
// it in the outgoing metadata.
const requestIDKey = "x-request-id"

// unary makes a call, and makes it again where that is right.
func (c *Client) unary(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	ctx, cancel, id := c.begin(ctx)
	defer cancel()
	for attempt := 1; ; attempt++ {
		var trailer metadata.MD
		err := invoke(ctx, method, request, reply, connection, append(options, grpc.Trailer(&trailer))...)
		if err == nil {
			return nil
		}
		failed := c.settings.retry.wait(ctx, attempt, newError(err, trailer, id))
		if failed != nil {
			return failed
		}
	}
}

// apiKey sends a key; also without TLS, for a server on the same machine or behind a mesh.
type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (apiKey) RequireTransportSecurity() bool { return false }
