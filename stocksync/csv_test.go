package stocksync_test

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/stocksync"
)

func TestReadCSV(t *testing.T) {
	a := []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 5}}
	of := func(n int64) []stocksync.Target { return []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: n}} }
	for name, tt := range map[string]struct {
		file string
		want []stocksync.Target
	}{
		"plain":                {"sku,location_id,quantity\na,w1,5\n", a},
		"no newline at end":    {"sku,location_id,quantity\na,w1,5", a},
		"CRLF":                 {"sku,location_id,quantity\r\na,w1,5\r\n", a},
		"byte order mark":      {"\uFEFFsku,location_id,quantity\na,w1,5\n", a},
		"mark before a quote":  {"\uFEFF\"sku\",\"location_id\",\"quantity\"\na,w1,5\n", a},
		"semicolons":           {"sku;location_id;quantity\na;w1;5\n", a},
		"tabs":                 {"sku\tlocation_id\tquantity\na\tw1\t5\n", a},
		"a blank column, tabs": {"note\tsku\tlocation_id\tquantity\n\ta\tw1\t5\n", a},
		"any order and case":   {"Quantity,SKU,Location_ID\n5,a,w1\n", a},
		"other names":          {"Qty,Sku,Location\n5,a,w1\n", a},
		"words":                {"quantity,SKU,Location ID\n5,a,w1\n", a},
		"other columns":        {"name,sku,x,location_id,quantity,y\n\"A; B, C\",a,,w1,5,9\n", a},
		"separators in header": {"sku;location_id;quantity;\"a,b,c,d,e\"\na;w1;5;\n", a},
		"quotes":               {"\"sku\",\"location_id\",\"quantity\"\n\"a \"\"1\"\", b\",\"w1\",\"5\"\n", []stocksync.Target{{SKU: `a "1", b`, LocationID: "w1", Quantity: 5}}},
		"a cell of two lines":  {"sku,location_id,quantity,note\na,w1,5,\"one\ntwo\"\nb,w1,6,\n", []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 5}, {SKU: "b", LocationID: "w1", Quantity: 6}}},
		"spaces":               {" sku , location_id , quantity \n a , \"w1\", 5 \n", a},
		"blank lines":          {"\n\r\n,,\nsku,location_id,quantity\n\n , , \na,w1,5\n\r\n,,,,,\n\n", a},
		"blank at the end":     {"sku,location_id,quantity\na,w1,5,,\n", a},
		"nameless columns":     {"sku,location_id,quantity,,\na,w1,5,,\na,w1,5\n", append(of(5), of(5)...)},
		"sep":                  {"sep=;\r\nsku;location_id;quantity\r\na;w1;5\r\n", a},
		"sep, quoted":          {"\uFEFF\"sep=,\"\nsku,location_id,quantity\na,w1,5\n", a},
		"beyond ASCII":         {"sku;location_id;quantity\ngrün;lager-ü;5\n", []stocksync.Target{{SKU: "grün", LocationID: "lager-ü", Quantity: 5}}},
		"twice":                {"sku,location_id,quantity\na,w1,5\na,w1,5\n", append(of(5), of(5)...)},
		"minus":                {"sku,location_id,quantity\na,w1,-5\n", of(-5)},
		"zero":                 {"sku,location_id,quantity\na,w1,0\n", of(0)},
		"CR":                   {"sku,location_id,quantity\ra,w1,5\r", a},
		"CR CR LF":             {"sku,location_id,quantity\r\r\na,w1,5\r\r\n", a},
		"CR, a cell of two":    {"sku,location_id,quantity,note\ra,w1,5,\"one\ntwo\"\rb,w1,6,\r", []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 5}, {SKU: "b", LocationID: "w1", Quantity: 6}}},
		"UTF-16":               {utf16File(binary.LittleEndian, "sku\tlocation_id\tquantity\r\ngr\u00fcn\U0001F455\tw1\t5\r\n"), []stocksync.Target{{SKU: "gr\u00fcn\U0001F455", LocationID: "w1", Quantity: 5}}},
		"UTF-16, big-endian":   {utf16File(binary.BigEndian, "sku,location_id,quantity\na,w1,5\n"), a},
		"space after a quote":  {"sku,location_id,quantity\n\"a\" ,\"w1\"  ,5\n", a},
		"quotes between tabs":  {"sku\tlocation_id\tquantity\n\"a \"\"1\"\", b\"\tw1\t5\n", []stocksync.Target{{SKU: `a "1", b`, LocationID: "w1", Quantity: 5}}},
		"a tab between quotes": {"sku\tname\tlocation_id\tquantity\na\t\"one\ttwo\"\tw1\t5\n", a},
		"two lines, tabs":      {"sku\tname\tlocation_id\tquantity\na\t\"one\ntwo\"\tw1\t5\n", a},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stocksync.ReadCSV(iotest.OneByteReader(strings.NewReader(tt.file)))
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestReadCSVRejectsFile(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"empty":              {"", "is empty"},
		"blank":              {"\uFEFF \r\n\n", "is empty"},
		"blank cells":        {",,\n,,\n", "no column"},
		"UTF-16":             {"\xff\xfes\x00k\x00u\x00", "read as UTF-16"},
		"UTF-16 big":         {"\xfe\xff\x00s\x00k\x00u", "read as UTF-16"},
		"UTF-16 cut":         {"\xff\xfes\x00k\x00u", "ends within a character"},
		"UTF-32":             {"\xff\xfe\x00\x00s\x00\x00\x00", "UTF-32"},
		"UTF-32 big":         {"\x00\x00\xfe\xff\x00\x00\x00s", "UTF-32"},
		"a workbook":         {"PK\x03\x04\x14\x00", "workbook"},
		"an old workbook":    {"\xd0\xcf\x11\xe0\xa1\xb1", "workbook"},
		"a mark and no more": {"\uFEFF", "is empty"},
		"only sep":           {"sep=;", "no header"},
		"UTF-16 unmarked":    {"s\x00k\x00u\x00", "UTF-16"},
		"no header":          {"a,w1,5\n", "no column sku"},
		"no quantity":        {"sku;location_id;stock\na;w1;5\n", `no column quantity: ["sku" "location_id" "stock"]`},
		"no location":        {"sku,quantity\na,5\n", "no column location_id"},
		"quantity twice":     {"sku,location_id,quantity,qty\na,w1,5,5\n", "column quantity twice"},
		"broken header":      {"sku,loc\"ation,quantity\na,w1,5\n", "the header: "},
		"only a header":      {"sku,location_id,quantity\n", "cut short"},
		"and blank lines":    {"sku,location_id,quantity\n\n,,\n", "cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			targets, err := stocksync.ReadCSV(strings.NewReader(tt.file))
			if err == nil || targets != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", targets, err, tt.want)
			}
		})
	}
	broken := errors.New("broken")
	if targets, err := stocksync.ReadCSV(io.MultiReader(strings.NewReader("sku,location_id,quantity\na,w1,5\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) || targets != nil {
		t.Errorf("a reader that fails: %v, %v", targets, err)
	}
}

func TestReadCSVNamesBadLines(t *testing.T) {
	file := strings.Join([]string{
		"sku;location_id;quantity", // 1
		"a;w1;5",
		"",
		"a;w1;", // 4
		";w1;5",
		"a; ;5",
		"a;w1;1.234", // 7
		"a;w1;12.000",
		"a;w1;0,123",
		"a;w1;1,23", // 10
		"a;w1;12,5",
		"a;w1;5 000",
		"a;w1;1e3", // 13
		"a;w1;--5",
		"a;w1;five",
		"a;w1;9223372036854775808", // 16
		"a;w1;-9,223,372,036,854,775,809",
		"a;w1",
		"a;w1;5;6", // 19
		"\"a;w1;5",
		"b;w1;\u22125",
		"gr\xfcn;w1;5", // 22, Latin-1
		"a\"b;w1;5",
		"a;\"w\n1\";5", // 24 and 25
		"a;w1;12,34,567",
		"c;w1;7", // 27
		"a;w1;.",
		"\"=\"\"00123\"\"\";w1;5", // 29
		"a\u200b;w1;5",
		"a;w1;=2+3",
	}, "\n")
	want := []int{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31}
	targets, err := stocksync.ReadCSV(strings.NewReader(file))
	var bad *stocksync.CSVError
	if !errors.As(err, &bad) || targets != nil {
		t.Fatalf("got %v, %v", targets, err)
	}
	var got []int
	for _, l := range bad.Lines {
		got = append(got, l.Line)
	}
	if !slices.Equal(got, want) {
		t.Errorf("bad lines %v, want %v: %v", got, want, err)
	}
	for _, part := range []string{"bad lines: 27", "line 4: no quantity", "line 5: no sku", "line 6: no location_id", `line 7: the quantity "1.234"`, "line 19: it has 4 columns, the header 3", "also lines 24, 25, 26, 28, 29, 30, 31"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

// TestReadCSVQuoteHidesRows checks a quote that is part of a text but looks like the
// start of a cell, which the next quote closes some lines later.
func TestReadCSVQuoteHidesRows(t *testing.T) {
	for name, file := range map[string]string{
		"an inch sign":           "sku,name,location_id,quantity\nhose,\"Hose,w1,3\nbelt,Belt,w1,4\ntube,Tube 1\",w1,80\n",
		"adjacent lines":         "sku;name;location_id;quantity\nhose;\"Hose;w1;3\ntube;Tube 1\";w1;80\n\nmat;Mat;w1;7\n",
		"tabs":                   "sku\tname\tlocation_id\tquantity\nhose\t\"Hose\tw1\t3\nbelt\tBelt\tw1\t4\ntube\tTube 1\"\tw1\t80\n",
		"CRLF":                   "sku,name,location_id,quantity\r\nhose,\"Hose,w1,3\r\nbelt,Belt,w1,4\r\ntube,Tube 1\",w1,80\r\n",
		"in the last column":     "sku,location_id,quantity,name\nhose,w1,3,\"Hose\nbelt,w1,4,Belt\ntube,w1,80,Tube 1\"\n",
		"in the SKU":             "sku,location_id,quantity\n\"hose,w1,3\nbelt,w1,4\ntube\",w1,80\n",
		"after a quoted cell":    "sku,maker,name,location_id,quantity\nhose,\"Ho, Se\",\"Hose,w1,3\nbelt,Be,Belt,w1,4\ntube,Tu,Tube 1\",w1,80\n",
		"separators in the text": "sku,name,location_id,quantity\nhose,\"Hose, red, long,w1,3\nbelt,Belt,w1,4\ntube,Tube 1\",w1,80\n",
		"without a quantity":     "sku,name,location_id,quantity\nhose,\"Hose,w1,\ntube,Tube 1\",w1,80\n",
		"hiding a bad one":       "sku,name,location_id,quantity\nhose,\"Hose,w1,3\nbelt,Belt,w1,1.5\ntube,Tube 1\",w1,80\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := stocksync.ReadCSV(strings.NewReader(file))
			var bad *stocksync.CSVError
			require.ErrorAs(t, err, &bad)
			last := 1 + strings.Count(file[:strings.LastIndexByte(file, '"')], "\n")
			require.Len(t, bad.Lines, last-1, "%v", err)
			for i, l := range bad.Lines {
				require.Equal(t, i+2, l.Line)
				require.ErrorContains(t, l.Err, fmt.Sprintf("a quote in line 2 closes in line %d", last))
			}
		})
	}
}

// TestReadCSVCellsOverLines checks that cells may span several lines, even if one of
// the lines would be a row.
func TestReadCSVCellsOverLines(t *testing.T) {
	want := []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 5}, {SKU: "b", LocationID: "w1", Quantity: 6}}
	for name, file := range map[string]string{
		"the last line is a row":     "note,sku,location_id,quantity\n\"one\ntwo\",a,w1,5\nx,b,w1,6\n",
		"the first line is a row":    "sku,location_id,quantity,note\na,w1,5,\"one\ntwo\"\nb,w1,6,x\n",
		"a line between is a row":    "sku,note,location_id,quantity\na,\"one\ntwo,three,w2,9\nfour\",w1,5\nb,x,w1,6\n",
		"as many columns, no number": "sku,note,location_id,quantity\na,\"one, two, three\nfour, five\",w1,5\nb,x,w1,6\n",
		"two such cells":             "sku,note,location_id,quantity,note 2\na,\"one\ntwo\",w1,5,\"three\nfour\"\nb,x,w1,6,\n",
		"blank lines within":         "sku,note,location_id,quantity\na,\"one\n\n\ntwo\",w1,5\nb,x,w1,6\n",
		"quotes within":              "sku,note,location_id,quantity\na,\"\"\"one\"\"\ntwo\"\"\",w1,5\nb,x,w1,6\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stocksync.ReadCSV(strings.NewReader(file))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// TestReadCSVQuotesBetweenTabs checks that quotes between tabs are part of the text,
// as marketplaces write it, unless they enclose a whole cell.
func TestReadCSVQuotesBetweenTabs(t *testing.T) {
	for _, name := range []string{`Mug "Anna", blue`, `"Wide" shelf`, `Shelf 40"`, `"Shelf`, `""`, `"a""`, `"""`, `"a" "b"`, `a""b`} {
		got, err := stocksync.ReadCSV(strings.NewReader("sku\tname\tlocation_id\tquantity\na\t" + name + "\tw1\t5\nb\tx\tw1\t6\n"))
		require.NoError(t, err, name)
		require.Equal(t, []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 5}, {SKU: "b", LocationID: "w1", Quantity: 6}}, got, name)
	}
	got, err := stocksync.ReadCSV(strings.NewReader("sku\tlocation_id\tquantity\npipe 14\"\tw1\t5\n\"big\" pipe\tw1\t6\n"))
	require.NoError(t, err)
	require.Equal(t, []stocksync.Target{{SKU: `pipe 14"`, LocationID: "w1", Quantity: 5}, {SKU: `"big" pipe`, LocationID: "w1", Quantity: 6}}, got)
}

// utf16File returns text in UTF-16 with a byte order mark.
func utf16File(order binary.AppendByteOrder, text string) string {
	var file []byte
	for _, unit := range utf16.Encode([]rune("\uFEFF" + text)) {
		file = order.AppendUint16(file, unit)
	}
	return string(file)
}

func TestReadCSVThousandsUnquoted(t *testing.T) {
	_, err := stocksync.ReadCSV(strings.NewReader("sku,location_id,quantity\na,w1,1,234\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2: it has 4 columns, the header 3") {
		t.Errorf("read as 1: %v", err)
	}
}

// TestReadCSVShifted checks that an unquoted 1,234 is never read as 1, and that no
// cell is read as part of another column.
func TestReadCSVShifted(t *testing.T) {
	for _, file := range []string{
		"sku,location_id,quantity,\na,w1,1,234\n",
		"sku,location_id,quantity,\na,w1,1,234,\n",
		"sku,location_id,quantity,note\na,w1,1,234,\n",
		"sku,location_id,quantity,note\na,w1,1,234,x\n",
		"quantity,sku,location_id,note\n1,234,a,w1,\n",
		"quantity,sku,location_id\n1,234,a,w1\n",
		"quantity,sku,location_id,\n1,234,a,w1\n",
		"sku,quantity,,location_id\na,1,234,w1\n",
		"sku,,location_id,quantity\na,x,w1,5\n",
	} {
		targets, err := stocksync.ReadCSV(strings.NewReader(file))
		if err == nil || !strings.Contains(err.Error(), "line 2: it has ") {
			t.Errorf("%q: %v, %v", file, targets, err)
		}
	}
}

// TestReadCSVLineNumbers checks that the line that names the separator is counted
// too.
func TestReadCSVLineNumbers(t *testing.T) {
	_, err := stocksync.ReadCSV(strings.NewReader("sep=,\nsku,location_id,quantity\na,w1,5\na,w1,x\n"))
	if err == nil || !strings.Contains(err.Error(), "line 4: the quantity") {
		t.Errorf("%v", err)
	}
}

func TestReadCSVManyBadLines(t *testing.T) {
	file := "sku,location_id,quantity\n" + strings.Repeat("a,w1,x\n", 20_000)
	_, err := stocksync.ReadCSV(strings.NewReader(file))
	var bad *stocksync.CSVError
	if !errors.As(err, &bad) || len(bad.Lines) != 20_000 || bad.Lines[19_999].Line != 20_001 {
		t.Fatalf("got %.200v", err)
	}
	text := err.Error()
	if len(text) > 3000 || !strings.Contains(text, "line 21: ") || !strings.Contains(text, "also lines 22, 23, ") || !strings.HasSuffix(text, ", 121 and 19880 more") {
		t.Errorf("%d bytes: %s", len(text), text)
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add([]byte("sku,location_id,quantity\na,w1,5\n"))
	f.Add([]byte("\uFEFFSKU;Location;Qty\r\n\"a\";w1;1,234\r\n;;\r\n"))
	f.Add([]byte("x\tsku\tlocation_id\tquantity\n\ta\tw1\t12.0\n"))
	f.Add([]byte("sku,location_id,quantity\n\"a,w1,5\nb,w1,x\n\"c\nd\",w1,6\n"))
	f.Add([]byte("sku\tname\tlocation_id\tquantity\na\t\"A\tw1\t5\nb\t\"B\" 1\tw1\t6\nc\tC\"\tw1\t7\n"))
	f.Add([]byte("sku,location_id,quantity\na,w1,5,,,\"x\ny\"\n"))
	f.Add([]byte("sku,location_id,quantity\ra,w1,\"1,234\"\rb,w1,12.0000\r"))
	f.Add([]byte(utf16File(binary.LittleEndian, "sku\tlocation_id\tquantity\r\na\tw1\t5\r\n")))
	f.Fuzz(func(t *testing.T, file []byte) {
		targets, err := stocksync.ReadCSV(bytes.NewReader(file))
		if (err == nil) == (len(targets) == 0) {
			t.Fatalf("%d targets, %v", len(targets), err)
		}
		var bad *stocksync.CSVError
		if errors.As(err, &bad) {
			last := 1
			for _, l := range bad.Lines {
				if l.Line <= last || l.Line > bytes.Count(file, []byte("\n"))+bytes.Count(file, []byte("\r"))+1 {
					t.Fatalf("line %d after %d: %v", l.Line, last, err)
				}
				last = l.Line
			}
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		w := csv.NewWriter(&again)
		_ = w.Write([]string{"sku", "location_id", "quantity"})
		for _, target := range targets {
			_ = w.Write([]string{target.SKU, target.LocationID, strconv.FormatInt(target.Quantity, 10)})
		}
		w.Flush()
		got, err := stocksync.ReadCSV(&again)
		if err != nil || !slices.Equal(got, targets) {
			t.Fatalf("%v became %v, %v", targets, got, err)
		}
	})
}

func ExampleReadCSV() {
	file := strings.NewReader("SKU;Location;Qty\nshirt-blue-m;warehouse-1;1234\nshirt-green-m;warehouse-1;12.5\nshirt-red-m;warehouse-1;12,000\n")
	_, err := stocksync.ReadCSV(file)
	fmt.Println(err)
	// Output:
	// stocksync: no targets were read; bad lines: 2; line 3: the quantity "12.5" is not plainly a whole number; line 4: the quantity "12,000" is ambiguous: 12000 if the comma separates thousands, 12.000 if it separates decimals
}
