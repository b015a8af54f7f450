package stocksync

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkText makes the checks that the cells of all three columns have in common.
func checkText(column, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("no %s", column)
	case text[0] == '=':
		return fmt.Errorf("the %s %.40q is a formula: save its value", column, text)
	case !utf8.ValidString(text):
		return fmt.Errorf("the %s %.40q is not UTF-8", column, text)
	case strings.Contains(text, "\n"):
		return fmt.Errorf("the %s %.40q runs over the end of a line: is a quote not closed?", column, text)
	case strings.ContainsRune(text, utf8.RuneError):
		return fmt.Errorf("the %s %.40q has U+FFFD, which stands for a character that was lost", column, text)
	}
	if r, found := findUnseen(text); found {
		return fmt.Errorf("the %s %.40q has %U, which cannot be seen or looks like a space", column, text, r)
	}
	return nil
}

// rewritten matches a long number, such as a barcode, as a spreadsheet shows it. It
// does not match 1E5 or 5E-10, which may be real SKUs.
var rewritten = regexp.MustCompile(`(?i)^[0-9]([.,][0-9]+e[+-][0-9]+|e\+[0-9]+)$`)

// checkName checks a SKU or a location.
func checkName(column, text string) error {
	if err := checkText(column, text); err != nil {
		return err
	}
	switch {
	case text[0] == '\'':
		return fmt.Errorf("the %s %.40q begins with an apostrophe, which may not be part of it", column, text)
	case rewritten.MatchString(text):
		return fmt.Errorf("the %s %.40q is a number that a spreadsheet rewrote, which loses digits: format the column as text", column, text)
	}
	return nil
}

// findUnseen returns the first character that is invisible or only looks like a
// space.
func findUnseen(text string) (r rune, found bool) {
	before, after := rune(0), text
	for after != "" {
		r, size := utf8.DecodeRuneInString(after)
		after = after[size:]
		switch {
		case r < utf8.RuneSelf:
			found = unicode.IsControl(r)
		case unicode.Is(unicode.Variation_Selector, r):
			found = !shapesEmoji(before, r, after)
		default:
			found = r == '\u2800' || // the blank Braille pattern
				unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point)
		}
		if found {
			return r, true
		}
		before = r
	}
	return 0, false
}

// shapesEmoji reports whether a variation selector follows an emoji and says how to
// draw it.
func shapesEmoji(before, selector rune, after string) bool {
	switch {
	case selector != '\uFE0E' && selector != '\uFE0F':
		return false
	case strings.ContainsRune("0123456789#*", before):
		return strings.HasPrefix(after, "\u20E3") // an enclosing keycap
	}
	return emoji.MatchString(string(before))
}

// emoji matches the emoji of Unicode's emoji-data.txt, and all characters of the
// pictograph blocks.
var emoji = regexp.MustCompile("[" +
	"©®‼⁉™ℹ↔-↙↩↪⌚⌛⌨⏏⏩-⏳⏸-⏺Ⓜ▪▫▶◀◻-◾☀-☄☎☑☔☕☘☝☠☢☣☦☪☮☯☸-☺♀♂♈-♓♟♠♣♥♦♨♻" +
	"♾♿⚒-⚗⚙⚛⚜⚠⚡⚧⚪⚫⚰⚱⚽⚾⛄⛅⛈⛎⛏⛑⛓⛔⛩⛪⛰-⛵⛷-⛺⛽✂✅✈-✍✏✒✔✖✝✡✨✳✴❄❇❌❎❓-❕❗❣❤➕-➗" +
	"➡➰➿⤴⤵⬅-⬇⬛⬜⭐⭕〰〽㊗㊙🀄-🫿" + "]")
