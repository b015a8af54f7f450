package outboxweb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/oakra/oakra-go/outbox"
)

const maxNote = 500 // characters of a reason

// actions are the decisions, by the names that forms have for them.
var actions = map[string]outbox.Action{"resend": outbox.Resend, "applied": outbox.MarkApplied, "drop": outbox.Drop}

// decideData is what the page shows that asks for a confirmation.
type decideData struct {
	Action  string // a key of actions
	Entries []outbox.Entry
	Halted  bool
	By      string
	form
}

// form is what a person fills in, and how it came back.
type form struct {
	Note  string
	Error string // why it was not accepted
	Token string // of the form, see clicks
}

// checkNote returns why a reason is not accepted, "" if it is.
func checkNote(note string) string {
	switch {
	case note == "":
		return "Write down why: whoever looks at this change later will want to know."
	case !utf8.ValidString(note) || strings.ContainsRune(note, 0):
		return "The reason contains characters that cannot be kept."
	case utf8.RuneCountInString(note) > maxNote:
		return fmt.Sprintf("The reason has more than %d characters.", maxNote)
	}
	return ""
}

// noteOf returns the reason on one line, as the history shows it.
func noteOf(r *http.Request) string {
	return strings.Join(strings.Fields(r.PostForm.Get("note")), " ")
}

// decide asks for a confirmation at first, and decides when it was given.
func (h *handler) decide(r *http.Request) page {
	ids := r.PostForm["id"]
	slices.Sort(ids)
	ids = slices.Compact(ids)
	name := r.PostForm.Get("action")
	switch _, ok := actions[name]; {
	case len(ids) == 0:
		return message(http.StatusBadRequest, "No change was selected", "Select the changes that the decision is about.")
	case !ok:
		return message(http.StatusBadRequest, "No decision was chosen", "Send again, mark as applied, or drop.")
	case len(ids) > pageRows:
		return message(http.StatusBadRequest, "These are too many changes at once",
			fmt.Sprintf("Decide on at most %d. For more, use stockctl outbox resolve.", pageRows))
	case r.PostForm.Get("confirmed") == "":
		return h.askDecision(r, name, ids, form{})
	}
	by, token := h.writer(r), r.PostForm.Get("token")
	note := noteOf(r)
	if mistake := checkNote(note); mistake != "" {
		return h.askDecision(r, name, ids, form{Note: note, Error: mistake, Token: token})
	}
	return h.clicks.once(by, token, func() page {
		ctx, cancel := writes(r.Context())
		defer cancel()
		err := h.box.Resolve(ctx, outbox.Decision{Action: actions[name], By: by, Note: note}, ids...)
		switch {
		case err == nil && len(ids) == 1:
			return page{status: http.StatusSeeOther, seeOther: "change?" + url.Values{"id": ids}.Encode()}
		case err == nil:
			return h.resolved(ctx, r, name, ids)
		case errors.Is(err, outbox.ErrNotParked), errors.Is(err, outbox.ErrUnknownID):
			return h.conflict(ctx, r, name, ids)
		default:
			return h.uncertain(r, err)
		}
	})
}

// askDecision shows what a decision will do, and asks why it is made.
func (h *handler) askDecision(r *http.Request, name string, ids []string, f form) page {
	ctx, cancel := reads(r.Context())
	defer cancel()
	found, err := h.box.Find(ctx, ids...)
	if err != nil {
		return h.failed(r, err)
	}
	parked := func(e outbox.Entry) bool { return e.State == outbox.StateParked }
	if len(found) < len(ids) || !slices.ContainsFunc(found, parked) || slices.ContainsFunc(found, func(e outbox.Entry) bool { return !parked(e) }) {
		return h.conflict(ctx, r, name, ids)
	}
	status, err := h.box.Status(ctx)
	if err != nil {
		return h.failed(r, err)
	}
	p := page{template: "decide", title: decisionTitles[name]}
	if f.Error != "" {
		p.status = http.StatusUnprocessableEntity
	}
	if f.Token == "" {
		f.Token = rand.Text()
	}
	p.data = decideData{Action: name, Entries: found, Halted: status.Halted != "", By: h.writer(r), form: f}
	return p
}

var decisionTitles = map[string]string{"resend": "Send again", "applied": "Mark as applied", "drop": "Drop"}

// resolvedData is what a page shows after a decision, or after one that failed since
// somebody else was faster.
type resolvedData struct {
	Action  string
	Changed []changed      // what was decided, or what is no longer parked
	Parked  []outbox.Entry // what is parked still
}

// changed is a change and what happened to it last.
type changed struct {
	outbox.Entry // without a State if there is no such change
	Last         outbox.Event
}

func (h *handler) resolved(ctx context.Context, r *http.Request, name string, ids []string) page {
	d, err := h.newStates(ctx, name, ids, true)
	if err != nil {
		return h.uncertain(r, err)
	}
	return page{template: "resolved", title: "Decided", data: d}
}

func (h *handler) conflict(ctx context.Context, r *http.Request, name string, ids []string) page {
	d, err := h.newStates(ctx, name, ids, false)
	if err != nil {
		return h.failed(r, err)
	}
	return page{status: http.StatusConflict, template: "conflict", title: "Nothing was decided", data: d}
}

// newStates reads the changes again. What is parked counts as decided too if all is
// true: it may have been rejected once more already.
func (h *handler) newStates(ctx context.Context, name string, ids []string, all bool) (resolvedData, error) {
	d := resolvedData{Action: name}
	found, err := h.box.Find(ctx, ids...)
	if err != nil {
		return d, err
	}
	for _, id := range ids {
		i := slices.IndexFunc(found, func(e outbox.Entry) bool { return e.ID == id })
		switch {
		case i < 0:
			d.Changed = append(d.Changed, changed{Entry: outbox.Entry{Change: outbox.Change{ID: id}}})
		case found[i].State == outbox.StateParked && !all:
			d.Parked = append(d.Parked, found[i])
		default:
			events, err := h.box.History(ctx, id)
			if err != nil {
				return d, err
			}
			c := changed{Entry: found[i]}
			if len(events) > 0 { // it may have been deleted meanwhile
				c.Last = events[len(events)-1]
			}
			d.Changed = append(d.Changed, c)
		}
	}
	return d, nil
}

// uncertain is the page for a write that failed in a way that leaves its outcome open.
func (h *handler) uncertain(r *http.Request, err error) page {
	p := h.failed(r, err)
	p.data = messageData{"The database failed while this was recorded", "It may have been recorded, or not. Look at the new state before you try again."}
	return p
}

// resumeData is what the page shows that asks before it resumes.
type resumeData struct {
	Status   outbox.Status
	Restored string // "yes", "no", or "" while nothing was chosen
	Unchosen bool   // that it has to be chosen was forgotten
	By       string
	Failed   string // why the outbox could not resume
	form
}

func (h *handler) askResume(r *http.Request) page { return h.resumePage(r, 0, resumeData{}) }

// resumePage asks, unless the outbox is not halted.
func (h *handler) resumePage(r *http.Request, status int, d resumeData) page {
	ctx, cancel := reads(r.Context())
	defer cancel()
	s, err := h.box.Status(ctx)
	switch {
	case err != nil:
		return h.failed(r, err)
	case s.Halted == "":
		return notHalted(status)
	}
	d.Status, d.By = s, h.writer(r)
	if d.Token == "" {
		d.Token = rand.Text()
	}
	return page{status: status, template: "resume", title: "Resume", data: d}
}

func notHalted(status int) page {
	return message(status, "The outbox is not halted", "There is nothing to resume. If it was halted before, somebody has resumed it meanwhile.")
}

func (h *handler) resume(r *http.Request) page {
	d := resumeData{Restored: r.PostForm.Get("restored"), form: form{Note: noteOf(r), Token: r.PostForm.Get("token")}}
	d.Error = checkNote(d.Note)
	d.Unchosen = d.Restored != "yes" && d.Restored != "no"
	if d.Error != "" || d.Unchosen {
		return h.resumePage(r, http.StatusUnprocessableEntity, d)
	}
	by := h.writer(r)
	return h.clicks.once(by, d.Token, func() page {
		ctx, cancel := writes(r.Context())
		defer cancel()
		s, err := h.box.Status(ctx)
		switch {
		case err != nil:
			return h.failed(r, err)
		case s.Halted == "":
			return notHalted(http.StatusConflict)
		}
		err = h.box.Resume(ctx, outbox.ResumeOptions{By: by, Note: d.Note, DatabaseRestored: d.Restored == "yes"})
		if err != nil {
			d.Failed = strings.TrimPrefix(err.Error(), "outbox: resume: ")
			return h.resumePage(r, http.StatusBadGateway, d)
		}
		return page{status: http.StatusSeeOther, seeOther: "./"}
	})
}
