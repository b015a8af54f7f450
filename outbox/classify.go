package outbox

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"

	"github.com/oakra/oakra-go"
)

// resultOf says how a call of Change ended.
func resultOf(err error) result {
	switch oakra.OutcomeOf(err) {
	case oakra.OutcomeApplied:
		if err == nil {
			return resultApplied
		}
		return resultUnknown // the witnesses show it at the next read
	case oakra.OutcomeNotApplied:
		switch {
		case errors.Is(err, oakra.ErrRateLimited):
			return resultBusy
		case oakra.Retryable(err):
			return resultUnsent
		case splittable(err):
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

// itemPattern matches the field of an item in the server's messages.
var itemPattern = regexp.MustCompile(`^stock_records\[(\d+)\](?:\.(.+))?$`)

// itemsOf returns the server's messages by index into what was sent.
func itemsOf(err error) map[int][]string {
	var e *oakra.Error
	if !errors.As(err, &e) {
		return nil
	}
	items := make(map[int][]string)
	for field, texts := range e.Fields {
		m := itemPattern.FindStringSubmatch(field)
		if m == nil {
			continue
		}
		i, err := strconv.Atoi(m[1])
		if err != nil {
			continue
		}
		for _, text := range texts {
			if m[2] != "" {
				text = m[2] + ": " + text
			}
			items[i] = append(items[i], text)
		}
	}
	return items
}

// rejected reports whether nothing was applied because of the content, for certain.
func rejected(err error) bool {
	var e *oakra.Error
	if !errors.As(err, &e) || e.Outcome != oakra.OutcomeNotApplied {
		return false
	}
	if e.StatusCode == 0 {
		return errors.Is(err, oakra.ErrInvalidRequest)
	}
	if len(itemsOf(err)) > 0 {
		return true
	}
	switch e.StatusCode {
	case http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		return e.Message != "" || len(e.Fields) > 0
	}
	return false
}

// splittable reports whether nothing was applied and the same items may pass in
// smaller requests.
func splittable(err error) bool {
	var e *oakra.Error
	if !errors.As(err, &e) || e.Outcome != oakra.OutcomeNotApplied {
		return false
	}
	switch e.StatusCode {
	case http.StatusRequestEntityTooLarge:
		return true
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		return e.Message != "" || len(e.Fields) > 0
	}
	return rejected(err)
}

// keyAtFault reports whether a lookup failed because of one of its keys: the client
// refused it, Oakra has two records for it, or the server rejected it.
func keyAtFault(err error) bool {
	var e *oakra.Error
	if !errors.As(err, &e) {
		return false
	}
	if e.StatusCode == 0 {
		return errors.Is(err, oakra.ErrInvalidRequest) || errors.Is(err, oakra.ErrBadResponse)
	}
	return e.StatusCode != http.StatusNotFound && rejected(err)
}

// words returns the server's words for a rejection, or the error's.
func words(err error) string {
	var e *oakra.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
