package oakra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// credential is the app key, or the caller's source of it. The key lives in these
// closures alone: %+v prints one that is held in a field, exported or not.
type credential struct {
	key     func(ctx context.Context, rejected string) (string, error) // key for an attempt
	header  func(key string) []string                                  // value of the Authorization header
	known   func() secrets                                             // keys known before the first attempt
	rotates bool                                                       // whether the key comes from a source
}

func staticKey(key string) credential {
	header, known := []string{"Bearer " + key}, slices.Clip(secrets(nil).with(key))
	return credential{
		key:    func(context.Context, string) (string, error) { return key, nil },
		header: func(string) []string { return header },
		known:  func() secrets { return known },
	}
}

// mostRecent is how many keys of a source are remembered. A server may show one that
// was used before a rotation.
const mostRecent = 4

func keyFrom(source func(ctx context.Context, rejected string) (string, error)) credential {
	var mu sync.Mutex
	var recent []string // newest last
	var known secrets   // keys in recent
	remember := func(key string) {
		mu.Lock()
		defer mu.Unlock()
		if slices.Contains(recent, key) {
			return
		}
		recent = append(recent, key)
		recent = recent[max(0, len(recent)-mostRecent):]
		known = nil
		for _, key := range recent {
			known = known.with(key)
		}
		known = slices.Clip(known)
	}
	return credential{
		key: func(ctx context.Context, rejected string) (string, error) {
			key, err := source(ctx, rejected)
			remember(key)
			return key, err
		},
		header: func(key string) []string { return []string{"Bearer " + key} },
		known: func() secrets {
			mu.Lock()
			defer mu.Unlock()
			return known
		},
		rotates: true,
	}
}

// checkKey says what is wrong with a key without repeating any of it.
func checkKey(key string) error {
	const longest = 512
	switch {
	case key == "":
		return errors.New("the app key is empty")
	case len(key) > longest:
		return fmt.Errorf("the app key is %d bytes long, over %d", len(key), longest)
	}
	for i := range len(key) {
		if key[i] < 0x21 || key[i] > 0x7e {
			return fmt.Errorf("byte %d of the app key is not one of 0x21 to 0x7E; is there a space or a line break in it?", i)
		}
	}
	return nil
}

// authorize adds the app key and the API version to the header of a request to u
// (API reference, "Authentication" and "Versioning"). It refuses another scheme,
// host or port than those of the base URL.
func (c *Client) authorize(header http.Header, u *url.URL, key string) error {
	if u.Scheme != c.base.Scheme || u.Host != c.base.Host {
		return fmt.Errorf("the app key is not sent to %s://%s", u.Scheme, u.Host)
	}
	header["Authorization"] = c.credential.header(key)
	header["X-Oakra-Api-Version"] = headerAPIVersion
	return nil
}

var headerAPIVersion = []string{APIVersion}

// callKeys are the app keys of one call.
type callKeys struct {
	seen    secrets
	current string // key of the last attempt
	next    string // given by the source for a rejected one
	rotated bool   // the source was asked for another key
}

// get returns the key for the next attempt.
func (k *callKeys) get(ctx context.Context, from credential) (string, error) {
	key := k.next
	if k.next = ""; key == "" {
		var err error
		if key, err = k.ask(ctx, from, ""); err != nil {
			return "", err
		}
	}
	k.current = key
	return key, nil
}

// mayRotate reports whether the source may be asked for another key, which is done once
// per call.
func (k *callKeys) mayRotate(from credential) bool { return from.rotates && !k.rotated }

// rotate asks the source for a key other than the current one, which the server
// rejected, and reports whether it gave one.
func (k *callKeys) rotate(ctx context.Context, from credential) (bool, error) {
	k.rotated = true
	key, err := k.ask(ctx, from, k.current)
	if err != nil {
		return false, err
	}
	if key == k.current {
		return false, nil
	}
	k.next = key
	return true, nil
}

// ask returns a valid key from the source.
func (k *callKeys) ask(ctx context.Context, from credential, rejected string) (string, error) {
	key, err := from.key(ctx, rejected)
	k.seen = k.seen.with(key)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		return "", fmt.Errorf("the app key source: %w", err)
	}
	return key, nil
}
