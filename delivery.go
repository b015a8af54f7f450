package oakra

// resend says which operations the delivery table lets be sent again after a
// failure.
type resend int

const (
	resendUnset      resend = iota
	resendNever             // none
	resendIdempotent        // List and Update
	resendAny               // all: the write was not applied
)

// statusVerdict is the delivery table for answers: what a status says of a
// write, and who may send again.
func statusVerdict(status int) (Outcome, resend) {
	switch status {
	case 429:
		return OutcomeNotApplied, resendAny
	case 301, 302, 307, 308,
		400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 425:
		return OutcomeNotApplied, resendNever
	case 408:
		return OutcomeUnknown, resendIdempotent
	case 501:
		return OutcomeUnknown, resendNever
	}
	if status/100 == 5 {
		return OutcomeUnknown, resendIdempotent
	}
	return OutcomeUnknown, resendNever
}

// failureVerdict is the delivery table for attempts without an answer.
func failureVerdict(t *trace, err error) (Outcome, resend) {
	switch {
	case !t.asked.Load(): // a transport that reports no trace: its errors prove nothing
		return OutcomeUnknown, resendIdempotent
	case !t.connected.Load() && (noSuchHost(err) || t.refused()):
		return OutcomeNotApplied, resendNever
	case !t.connected.Load():
		return OutcomeNotApplied, resendAny
	case t.answered.Load() && !t.onlyInformed() && !broke(err): // what came is not HTTP
		return OutcomeUnknown, resendNever
	default:
		return OutcomeUnknown, resendIdempotent
	}
}
