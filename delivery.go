package oakra

// row is a row of the delivery table: what an attempt's end says of a write, and
// the highest effect that may be sent again. The package documentation has the
// whole table under "Delivery".
type row struct {
	outcome Outcome
	again   effect
}

// allows reports whether an operation of this effect may be sent again. An effect
// that nobody stated never is.
func (r row) allows(e effect) bool { return e != none && e <= r.again }

// statusRow classifies a status other than a readable 2xx.
func statusRow(status int) row {
	switch status {
	case 429:
		return row{OutcomeNotApplied, adds}
	case 301, 302, 307, 308,
		400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 425:
		return row{OutcomeNotApplied, none}
	case 408:
		return row{OutcomeUnknown, sets}
	case 501:
		return row{OutcomeUnknown, none}
	}
	if status/100 == 5 {
		return row{OutcomeUnknown, sets}
	}
	return row{OutcomeUnknown, none}
}

// failureRow classifies an attempt without a response. A connection that was
// requested and never obtained proves that nothing was sent; nothing else does.
func failureRow(t *trace, err error) row {
	switch {
	case !t.requested.Load(): // a transport that reports no trace: its errors prove nothing
		return row{OutcomeUnknown, sets}
	case !t.connected.Load() && (noSuchHost(err) || t.rejected()):
		return row{OutcomeNotApplied, none}
	case !t.connected.Load():
		return row{OutcomeNotApplied, adds}
	case t.malformed(err):
		return row{OutcomeUnknown, none}
	default:
		return row{OutcomeUnknown, sets}
	}
}

// bodyRow classifies a 2xx whose body is not what it should be: cut means that it
// ended too early, began that the array of its records was there, and so the
// write applied.
func bodyRow(began, cut bool) row {
	r := row{outcome: OutcomeUnknown}
	if began {
		r.outcome = OutcomeApplied
	}
	if cut {
		r.again = reads
	}
	return r
}
