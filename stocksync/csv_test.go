package stocksync_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

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
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stocksync.ReadCSV(iotest.OneByteReader(strings.NewReader(tt.file)))
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestReadCSVRefusesFile(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"empty":            {"", "is empty"},
		"blank":            {"\uFEFF \r\n\n", "is empty"},
		"blank cells":      {",,\n,,\n", "no column"},
		"UTF-16":           {"\xff\xfes\x00k\x00u\x00", "UTF-16"},
		"UTF-16 big":       {"\xfe\xff\x00s\x00k\x00u", "UTF-16"},
		"UTF-16 unmarked":  {"s\x00k\x00u\x00", "UTF-16"},
		"no header":        {"a,w1,5\n", "no column sku"},
		"no quantity":      {"sku;location_id;stock\na;w1;5\n", `no column quantity: ["sku" "location_id" "stock"]`},
		"no location":      {"sku,quantity\na,5\n", "no column location_id"},
		"quantity twice":   {"sku,location_id,quantity,qty\na,w1,5,5\n", "column quantity twice"},
		"broken header":    {"sku,loc\"ation,quantity\na,w1,5\n", "the header: "},
		"nothing but that": {"sku,location_id,quantity\n", "cut short"},
		"and blank lines":  {"sku,location_id,quantity\n\n,,\n", "cut short"},
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

func TestReadCSVThousandsUnquoted(t *testing.T) {
	_, err := stocksync.ReadCSV(strings.NewReader("sku,location_id,quantity\na,w1,1,234\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2: it has 4 columns, the header 3") {
		t.Errorf("read as 1: %v", err)
	}
}

// TestReadCSVShifted: an unquoted 1,234 is never read as 1, nor anything else as
// what its column is not.
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

// TestReadCSVLineNumbers counts the line that names the separator, too.
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
	f.Fuzz(func(t *testing.T, file []byte) {
		targets, err := stocksync.ReadCSV(bytes.NewReader(file))
		if (err == nil) == (len(targets) == 0) {
			t.Fatalf("%d targets, %v", len(targets), err)
		}
		var bad *stocksync.CSVError
		if errors.As(err, &bad) {
			last := 1
			for _, l := range bad.Lines {
				if l.Line <= last || l.Line > bytes.Count(file, []byte("\n"))+1 {
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
