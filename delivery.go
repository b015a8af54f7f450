package oakra

// row is a row of the delivery table: what the end of an attempt says about a write,
// and the highest effect that may be sent again. The package documentation has the
// whole table under "Delivery".
type row struct {
	outcome Outcome
	again   effect
}

// allows reports whether an operation of this effect may be sent again. One whose
// effect was not stated never may.
func (r row) allows(e effect) bool { return e != none && e <= r.again }

// statusRow classifies a status other than a 2xx, and 202.
func statusRow(status int) row {
	switch status {
	case 301, 302, 307, 308:
		return row{OutcomeNotApplied, none}
	case 429:
		return row{OutcomeNotApplied, adds}
	case 408, 504: // the server may still be at work on the request
		return row{OutcomeUnknown, reads}
	case 460, 499, 501: // load balancers: the client went away
		return row{OutcomeUnknown, none}
	}
	switch status / 100 {
	case 4:
		return row{OutcomeNotApplied, none}
	case 5:
		return row{OutcomeUnknown, sets}
	}
	return row{OutcomeUnknown, none}
}

// failureRow classifies an attempt without a response. A connection that was
// requested and never obtained proves that nothing was sent. So does one that was
// never requested, if the transport is the client's own.
func failureRow(t *trace, err error, ownTransport bool) row {
	switch {
	case !t.requested.Load() && ownTransport:
		return row{OutcomeNotApplied, none}
	case !t.requested.Load(): // a transport that reports no trace: its errors prove nothing
		return row{OutcomeUnknown, sets}
	case !t.connected.Load() && (noSuchHost(err) || t.rejected() || proxyRejected(err)):
		return row{OutcomeNotApplied, none}
	case !t.connected.Load():
		return row{OutcomeNotApplied, adds}
	case t.malformed(err):
		return row{OutcomeUnknown, none}
	case timedOut(err): // the server may still be at work on the request
		return row{OutcomeUnknown, reads}
	default:
		return row{OutcomeUnknown, sets}
	}
}

// bodyRow classifies a 2xx whose body is not what it should be. The argument whole
// means that a record, or whatever else proves that the write was applied, was read to
// its end; cut means that the body ended too early.
func bodyRow(whole, cut bool) row {
	switch {
	case whole && cut:
		return row{OutcomeApplied, reads}
	case whole:
		return row{OutcomeApplied, none}
	case cut:
		return row{OutcomeUnknown, sets}
	}
	return row{OutcomeUnknown, none}
}
