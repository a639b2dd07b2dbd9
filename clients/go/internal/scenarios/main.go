// Scenarios runs clients/scenarios.json:
// go run ./internal/scenarios FILE HOST:PORT SECURE_HOST:PORT FOLDER.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	paternoster "paternoster/clients/go"
	pb "paternoster/clients/go/paternosterv1"
)

type scenario struct {
	Name    string
	Call    string
	Request request
	Expect  expect
	TLS     *tlsSpec
	Key     string
}

// tlsSpec names PEM files of a folder by their stem.
type tlsSpec struct {
	Roots, Certificate string
	ServerName         string `json:"server_name"`
}

type request struct {
	Prompt    *string
	Messages  []*pb.ChatMessage
	TokenIDs  []uint32 `json:"token_ids"`
	Model     string
	MaxTokens *uint32 `json:"max_tokens"`
	IgnoreEOS bool    `json:"ignore_eos"`
	Stop      []string
	N         *uint32
	// Temperature is that of Sampling.
	Temperature *float32
	TimeoutMS   int `json:"timeout_ms"`
	Inputs      []string
	Dimensions  *uint32
	Normalize   *bool
	Batches     [][]string
	Text        string
	Deltas      int
}

type expect struct {
	Texts           []string
	Finish          []string
	Stop            string
	PromptTokens    uint32 `json:"prompt_tokens"`
	GeneratedTokens uint32 `json:"generated_tokens"`
	Dimensions      int
	UnitLength      bool `json:"unit_length"`
	Nearer          []int
	IDs             []uint32
	Text            string
	Names           []string
	Tasks           []string
	Error           *struct{ Code, Reason, Field string }
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(file, address, secureAddress, folder string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all struct{ Scenarios, Secure []scenario }
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	passed, failed := 0, 0
	count := func(one scenario, address string, options []paternoster.Option) {
		if err := one.over(address, options); err != nil {
			failed++
			fmt.Printf("%s: %v\n", one.Name, err)
			return
		}
		passed++
	}
	for _, one := range all.Scenarios {
		count(one, address, nil)
	}
	for _, one := range all.Secure {
		options, err := one.options(folder)
		if err != nil {
			return err
		}
		count(one, secureAddress, options)
	}
	fmt.Printf("go: %d passed, %d failed\n", passed, failed)
	if failed > 0 || len(all.Scenarios) == 0 || len(all.Secure) == 0 {
		return errors.New("scenarios failed")
	}
	return nil
}

// options are those of the client that a scenario's tls and key say.
func (s scenario) options(folder string) ([]paternoster.Option, error) {
	var options []paternoster.Option
	if s.Key != "" {
		options = append(options, paternoster.WithAPIKey(s.Key))
	}
	if s.TLS == nil {
		return options, nil
	}
	path := func(name, ending string) string { return filepath.Join(folder, name+"."+ending) }
	roots, err := os.ReadFile(path(s.TLS.Roots, "pem"))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: s.TLS.ServerName}
	config.RootCAs.AppendCertsFromPEM(roots)
	if name := s.TLS.Certificate; name != "" {
		pair, err := tls.LoadX509KeyPair(path(name, "pem"), path(name, "key"))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return append(options, paternoster.WithTLS(config)), nil
}

// over runs a scenario over a connection of its own.
func (s scenario) over(address string, options []paternoster.Option) error {
	client, err := paternoster.Dial(address, options...)
	if err != nil {
		return err
	}
	defer client.Close()
	return s.run(client)
}

// doings are the ways to make a call; each must do what is expected.
var doings = map[string][]func(context.Context, *paternoster.Client, scenario) error{
	"generate":     {whole, streamed},
	"embed":        {embed},
	"embed_stream": {embedStream},
	"tokenize":     {tokenize},
	"models":       {models},
	"cancel":       {cancel},
	"quota":        {quota},
}

func (s scenario) run(client *paternoster.Client) error {
	if len(doings[s.Call]) == 0 {
		return fmt.Errorf("no call %q", s.Call)
	}
	for _, doing := range doings[s.Call] {
		if err := s.once(client, doing); err != nil {
			return err
		}
	}
	return nil
}

func (s scenario) once(client *paternoster.Client, doing func(context.Context, *paternoster.Client, scenario) error) error {
	ctx := context.Background()
	if s.Request.TimeoutMS > 0 {
		timed, cancel := context.WithTimeout(ctx, time.Duration(s.Request.TimeoutMS)*time.Millisecond)
		defer cancel()
		ctx = timed
	}
	err := doing(ctx, client, s)
	if s.Expect.Error == nil {
		return err
	}
	want := s.Expect.Error
	var typed *paternoster.Error
	if !errors.As(err, &typed) {
		return fmt.Errorf("not the client's error: %v", err)
	}
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + want.Code + `"`)); err != nil {
		return err
	}
	reason := want.Reason == "" || want.Reason == typed.Reason
	field := want.Field == "" || want.Field == typed.Field
	if typed.Code != code || !reason || !field || typed.RequestID == "" {
		return fmt.Errorf("found %v", typed)
	}
	return nil
}

func (r request) generate() *pb.GenerateRequest {
	made := &pb.GenerateRequest{
		Model:    r.Model,
		Sampling: &pb.Sampling{Temperature: r.Temperature, N: r.N},
		Stopping: &pb.Stopping{MaxTokens: r.MaxTokens, Stop: r.Stop, IgnoreEos: r.IgnoreEOS},
	}
	switch {
	case r.Prompt != nil:
		made.Input = &pb.GenerateRequest_Prompt{Prompt: *r.Prompt}
	case r.Messages != nil:
		made.Input = &pb.GenerateRequest_Chat{Chat: &pb.Chat{Messages: r.Messages}}
	default:
		made.Input = &pb.GenerateRequest_TokenIds{TokenIds: &pb.TokenIds{Ids: r.TokenIDs}}
	}
	return made
}

func whole(ctx context.Context, client *paternoster.Client, s scenario) error {
	answer, err := client.Complete(ctx, s.Request.generate())
	if err != nil {
		return err
	}
	found := expect{PromptTokens: answer.GetUsage().GetPromptTokens(), GeneratedTokens: answer.GetUsage().GetGeneratedTokens()}
	for _, one := range answer.GetCompletions() {
		found.Texts = append(found.Texts, one.GetText())
		found.Finish = append(found.Finish, word(one.GetReason(), "FINISH_REASON_"))
		found.Stop = one.GetStop()
	}
	return s.Expect.check(found)
}

func streamed(ctx context.Context, client *paternoster.Client, s scenario) error {
	n := 1
	if s.Request.N != nil {
		n = int(*s.Request.N)
	}
	found := expect{Texts: make([]string, n), Finish: make([]string, n)}
	for event, err := range client.Generate(ctx, s.Request.generate()) {
		if err != nil {
			return err
		}
		switch event := event.GetEvent().(type) {
		case *pb.GenerateResponse_Started:
			found.PromptTokens = event.Started.GetPromptTokens()
		case *pb.GenerateResponse_Delta:
			found.Texts[event.Delta.GetIndex()] += event.Delta.GetText()
		case *pb.GenerateResponse_Finished:
			found.Finish[event.Finished.GetIndex()] = word(event.Finished.GetReason(), "FINISH_REASON_")
			found.GeneratedTokens += event.Finished.GetUsage().GetGeneratedTokens()
			found.Stop = event.Finished.GetStop()
		}
	}
	return s.Expect.check(found)
}

// check compares what a generation gave with what is expected of it.
func (e expect) check(found expect) error {
	same := reflect.DeepEqual(e.Finish, found.Finish) &&
		(e.Texts == nil || reflect.DeepEqual(e.Texts, found.Texts)) &&
		(e.Stop == found.Stop) &&
		(e.PromptTokens == 0 || e.PromptTokens == found.PromptTokens) &&
		(e.GeneratedTokens == 0 || e.GeneratedTokens == found.GeneratedTokens)
	if !same {
		return fmt.Errorf("found %+v", found)
	}
	return nil
}

func embed(ctx context.Context, client *paternoster.Client, s scenario) error {
	answer, err := client.Inference.Embed(ctx, s.Request.embed(s.Request.Inputs))
	if err != nil {
		return err
	}
	return s.Expect.vectors(answer, len(s.Request.Inputs))
}

func (r request) embed(inputs []string) *pb.EmbedRequest {
	return &pb.EmbedRequest{Model: r.Model, Inputs: inputs, Dimensions: r.Dimensions, Normalize: r.Normalize}
}

func (e expect) vectors(answer *pb.EmbedResponse, count int) error {
	var vectors [][]float32
	for _, one := range answer.GetEmbeddings() {
		vectors = append(vectors, one.GetValues())
		length := dot(one.GetValues(), one.GetValues())
		if len(one.GetValues()) != e.Dimensions || e.UnitLength && (length < 0.999 || length > 1.001) {
			return fmt.Errorf("a vector of %d values and length %f", len(one.GetValues()), length)
		}
	}
	if len(vectors) != count {
		return fmt.Errorf("%d vectors", len(vectors))
	}
	if near := e.Nearer; near != nil && dot(vectors[near[0]], vectors[near[1]]) <= dot(vectors[near[0]], vectors[near[2]])+0.2 {
		return errors.New("the near text is not nearer")
	}
	return nil
}

func dot(left, right []float32) (sum float64) {
	for i := range left {
		sum += float64(left[i]) * float64(right[i])
	}
	return sum
}

func embedStream(ctx context.Context, client *paternoster.Client, s scenario) error {
	batches := func(yield func(*pb.EmbedRequest) bool) {
		for _, batch := range s.Request.Batches {
			if !yield(s.Request.embed(batch)) {
				return
			}
		}
	}
	answered := 0
	for answer, err := range client.EmbedStream(ctx, batches) {
		if err != nil {
			return err
		}
		batch := s.Request.Batches[answered]
		if err := s.Expect.vectors(answer, len(batch)); err != nil {
			return err
		}
		alone, err := client.Embed(ctx, batch...)
		if err != nil {
			return err
		}
		for i, vector := range alone {
			if dot(vector, answer.GetEmbeddings()[i].GetValues()) < 0.999 {
				return errors.New("out of order")
			}
		}
		answered++
	}
	if answered != len(s.Request.Batches) {
		return fmt.Errorf("%d answers", answered)
	}
	return nil
}

func tokenize(ctx context.Context, client *paternoster.Client, s scenario) error {
	input := &pb.TokenizeRequest_Prompt{Prompt: s.Request.Text}
	tokens, err := client.Inference.Tokenize(ctx, &pb.TokenizeRequest{Input: input})
	if err != nil {
		return err
	}
	var ids []uint32
	for _, token := range tokens.GetTokens() {
		ids = append(ids, token.GetId())
	}
	text, err := client.Inference.Detokenize(ctx, &pb.DetokenizeRequest{TokenIds: ids})
	if err != nil {
		return err
	}
	if !slices.Equal(ids, s.Expect.IDs) || text.GetText() != s.Expect.Text {
		return fmt.Errorf("found %v, %q", ids, text.GetText())
	}
	return nil
}

func models(ctx context.Context, client *paternoster.Client, s scenario) error {
	answer, err := client.Control.ListModels(ctx, &pb.ListModelsRequest{})
	if err != nil {
		return err
	}
	var names, tasks []string
	for _, model := range answer.GetModels() {
		names = append(names, model.GetName())
		tasks = append(tasks, word(model.GetTask(), "TASK_"))
	}
	if !slices.Equal(names, s.Expect.Names) || !slices.Equal(tasks, s.Expect.Tasks) {
		return fmt.Errorf("found %v, %v", names, tasks)
	}
	return nil
}

func cancel(ctx context.Context, client *paternoster.Client, s scenario) error {
	left := s.Request.Deltas
	for event, err := range client.Generate(ctx, s.Request.generate()) {
		if err != nil {
			return err
		}
		if event.GetDelta() != nil {
			left--
		}
		if left == 0 {
			break
		}
	}
	for end := time.Now().Add(30 * time.Second); ; {
		answer, err := client.Control.GetLoad(ctx, &pb.GetLoadRequest{})
		if err != nil {
			return err
		}
		busy := uint32(0)
		for _, load := range answer.GetLoads() {
			busy += load.GetWaitingRequests() + load.GetRunningSequences() + load.GetKvBlocksActive()
		}
		if busy == 0 && left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("the server still works on a closed stream")
		}
	}
}

func quota(ctx context.Context, client *paternoster.Client, s scenario) error {
	for range 3 {
		_, err := client.Complete(ctx, s.Request.generate())
		var typed *paternoster.Error
		if errors.As(err, &typed) && typed.RetryAfter <= 0 {
			return fmt.Errorf("without a time to come back: %v", typed.Message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func word(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}
