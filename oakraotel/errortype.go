package oakraotel

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/oakra/oakra-go"
)

// attemptFailure returns the error.type of an attempt, "" if it did not fail.
func attemptFailure(a oakra.AttemptEnd) string {
	if a.Number == 0 {
		switch a.StatusCode {
		case 400, 404, 405: // what the probe asks for
			return ""
		}
	}
	return errorType(a.Err)
}

// errorType returns the error.type of an error, "" for nil.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	status := 0
	var e *oakra.Error
	if errors.As(err, &e) {
		status = e.StatusCode
	}
	var netErr net.Error
	isNet := errors.As(err, &netErr)
	switch {
	case errors.Is(err, oakra.ErrNoRoute):
		return "no_route"
	case status != 0 && status/100 != 2:
		return strconv.Itoa(status)
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, oakra.ErrUnreachable):
		return "unreachable"
	case isNet && netErr.Timeout():
		return "timeout"
	case errors.Is(err, oakra.ErrBadResponse):
		return "bad_response"
	case isNet, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection_lost"
	}
	return semconv.ErrorTypeOther.Value.AsString()
}
