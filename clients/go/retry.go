package paternoster

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Retry says when a call is made again: after UNAVAILABLE, and after RESOURCE_EXHAUSTED where the
// server says when to come back, while no token has arrived and the deadline allows it.
type Retry struct {
	// Attempts is the number of calls in all; 1 never tries again.
	Attempts int
	// First is the pause before the second attempt; it doubles for each further one.
	First time.Duration
	// Longest is the longest of these pauses.
	Longest time.Duration
}

// DefaultRetry is what a client does unless it is told otherwise.
var DefaultRetry = Retry{Attempts: 4, First: 100 * time.Millisecond, Longest: 5 * time.Second}

// wait waits for the next attempt; how the call failed if there is none.
func (r Retry) wait(ctx context.Context, attempt int, failed *Error) *Error {
	pause, again := r.pause(attempt, failed)
	if !again {
		return failed
	}
	if end, has := ctx.Deadline(); has && pause >= time.Until(end) {
		return failed
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return newError(status.FromContextError(ctx.Err()).Err(), nil, failed.RequestID)
	}
}

func (r Retry) pause(attempt int, failed *Error) (time.Duration, bool) {
	overloaded := failed.Code == codes.ResourceExhausted && failed.HasRetryAfter
	if attempt >= r.Attempts || failed.Code != codes.Unavailable && !overloaded {
		return 0, false
	}
	if len(failed.pushback) > 0 {
		// gRFC A6: a value that is negative or not a number means not to try again.
		ms, err := strconv.ParseUint(failed.pushback[0], 10, 31)
		return time.Duration(ms) * time.Millisecond, err == nil
	}
	if failed.HasRetryAfter {
		return max(0, failed.RetryAfter), true
	}
	pause := r.First
	for doubled := 1; doubled < attempt && pause < r.Longest; doubled++ {
		pause *= 2
	}
	pause = min(pause, r.Longest)
	return time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64())), true
}
