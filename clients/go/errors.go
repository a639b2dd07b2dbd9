package paternoster

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What a caller may want to do something about, for errors.Is.
var (
	ErrInvalid          = errors.New("paternoster: the request is wrong")
	ErrNotFound         = errors.New("paternoster: not found")
	ErrPrecondition     = errors.New("paternoster: the server's state does not allow it")
	ErrUnauthenticated  = errors.New("paternoster: no key, or a wrong one")
	ErrPermission       = errors.New("paternoster: the key does not allow it")
	ErrOverloaded       = errors.New("paternoster: overloaded")
	ErrUnavailable      = errors.New("paternoster: unavailable")
	ErrDeadlineExceeded = errors.New("paternoster: the deadline passed")
	ErrCancelled        = errors.New("paternoster: cancelled")
	ErrUnimplemented    = errors.New("paternoster: the server cannot do this")
	ErrGeneration       = errors.New("paternoster: the server failed on this request")
	// ErrIncomplete: a stream broke off after its first tokens, which may have been used already.
	ErrIncomplete = errors.New("paternoster: the answer is not complete")
)

// Error is how a call ended; errors.As finds it. It says no more than the server did.
type Error struct {
	Code    codes.Code
	Message string
	// Reason is one of those that the contract lists: "QUEUE_FULL".
	Reason string
	// Field is the field of the request that is at fault: "stopping.max_tokens".
	Field string
	// Metadata has the numbers that matter, as the limit that was exceeded.
	Metadata map[string]string
	// RequestID is the name of the request, as it stands in the server's log.
	RequestID string
	// RetryAfter is when to come back; meaningful if HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool
	// Incomplete: a stream broke off after its first tokens.
	Incomplete bool

	pushback []string
	cause    error
}

// Error says what happened, to which request.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%s: %s (request %s)", e.Code, e.Message, e.RequestID)
	}
	return fmt.Sprintf("%s %s: %s (request %s)", e.Code, e.Reason, e.Message, e.RequestID)
}

// Unwrap is gRPC's own error.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status {
	if e.cause != nil {
		return status.Convert(e.cause)
	}
	return status.New(e.Code, e.Message)
}

// Is compares with the errors of this package.
func (e *Error) Is(target error) bool {
	switch {
	case e.Incomplete:
		return target == ErrIncomplete || target == ErrGeneration
	case e.Reason == "MESSAGE_TOO_LARGE":
		return target == ErrInvalid
	}
	if kind, known := kinds[e.Code]; known {
		return target == kind
	}
	return target == ErrGeneration
}

var kinds = map[codes.Code]error{
	codes.InvalidArgument:    ErrInvalid,
	codes.OutOfRange:         ErrInvalid,
	codes.NotFound:           ErrNotFound,
	codes.FailedPrecondition: ErrPrecondition,
	codes.Unauthenticated:    ErrUnauthenticated,
	codes.PermissionDenied:   ErrPermission,
	codes.ResourceExhausted:  ErrOverloaded,
	codes.Unavailable:        ErrUnavailable,
	codes.DeadlineExceeded:   ErrDeadlineExceeded,
	codes.Canceled:           ErrCancelled,
	codes.Unimplemented:      ErrUnimplemented,
}

// breaks: after the first token, what arrived is not the whole.
func (e *Error) breaks() bool {
	switch e.Code {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss, codes.Aborted:
		return true
	default:
		return false
	}
}

// newError reads a status, its details and its trailers.
func newError(err error, trailer metadata.MD, id string) *Error {
	found := status.Convert(err)
	made := &Error{
		Code:      found.Code(),
		Message:   found.Message(),
		RequestID: id,
		pushback:  trailer.Get("grpc-retry-pushback-ms"),
		cause:     err,
	}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			made.Reason, made.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			made.RetryAfter, made.HasRetryAfter = detail.GetRetryDelay().AsDuration(), true
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				made.Field = violations[0].GetField()
			}
		}
	}
	return made
}
