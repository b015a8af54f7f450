package outbox

import (
	"errors"
	"net/http"

	"github.com/oakra/oakra-go"
)

// resultOf returns how a call of Change ended.
func resultOf(err error) result {
	switch oakra.OutcomeOf(err) {
	case oakra.OutcomeApplied:
		if err == nil {
			return resultApplied
		}
		return resultUnknown // the next read of the witnesses shows the outcome
	case oakra.OutcomeNotApplied:
		switch {
		case errors.Is(err, oakra.ErrRateLimited):
			return resultBusy
		case oakra.Retryable(err):
			return resultUnsent
		case oakra.Splittable(err), oakra.Rejected(err):
			return resultRejected
		}
		return resultSetup
	}
	return resultUnknown
}

// needsSetup reports whether a failure lasts until somebody changes the setup.
func needsSetup(err error) bool {
	var e *oakra.Error
	return errors.As(err, &e) && e.Outcome == oakra.OutcomeNotApplied && !oakra.Retryable(err) && e.StatusCode/100 != 5
}

// itemsOf returns the server's messages, by index of the item that was sent.
func itemsOf(err error) map[int][]string {
	var e *oakra.Error
	if !errors.As(err, &e) {
		return nil
	}
	return e.Items()
}

// keyAtFault reports whether a lookup failed because of one of its keys: the client
// refused the key, or Oakra has two records for it. Neither error has the method of a
// request.
func keyAtFault(err error) bool {
	var e *oakra.Error
	return errors.As(err, &e) && e.Method == "" && (oakra.Rejected(err) || errors.Is(err, oakra.ErrBadResponse))
}

// keyPerhapsAtFault reports whether the server rejected a lookup with a message, either
// because of one of its keys or because of the setup.
func keyPerhapsAtFault(err error) bool {
	var e *oakra.Error
	return errors.As(err, &e) && oakra.Splittable(err) && e.StatusCode != http.StatusNotFound
}

// words returns the server's message for a rejection, or the text of the error.
func words(err error) string {
	var e *oakra.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
