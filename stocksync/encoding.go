package stocksync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"
)

// decode returns the text of a file and, if it is not UTF-8, the name of its
// encoding. Whether UTF-8 is valid is checked cell by cell, to name the line.
func decode(data []byte) (text, encoding string, err error) {
	has := func(prefix string) bool { return bytes.HasPrefix(data, []byte(prefix)) }
	switch {
	case has("\xff\xfe\x00\x00"), has("\x00\x00\xfe\xff"):
		return "", "", errors.New("stocksync: the file is UTF-32: save it as CSV in UTF-8")
	case has("PK\x03\x04"), has("\xd0\xcf\x11\xe0"):
		return "", "", errors.New("stocksync: the file is a workbook or an archive, not text: save it as CSV in UTF-8")
	case has("\xff\xfe"):
		text, encoding = decodeUTF16(data[2:], binary.LittleEndian), "UTF-16"
	case has("\xfe\xff"):
		text, encoding = decodeUTF16(data[2:], binary.BigEndian), "UTF-16"
	default:
		text = string(bytes.TrimPrefix(data, []byte("\uFEFF")))
	}
	switch {
	case encoding == "UTF-16" && len(data)%2 != 0:
		return "", "", errors.New("stocksync: the file is UTF-16 and ends within a character: is it cut short?")
	case strings.Contains(text, "\x00"):
		return "", "", errors.New("stocksync: the file is UTF-16 without a byte order mark, or not text: save it as CSV in UTF-8")
	case strings.TrimSpace(text) == "":
		return "", "", errors.New("stocksync: the file is empty")
	}
	return text, encoding, nil
}

// decodeUTF16 returns the text, with U+FFFD in place of invalid code units.
func decodeUTF16(data []byte, order binary.ByteOrder) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}
