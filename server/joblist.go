package server

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// jobArgs say in which order a list of the group is wanted, and which part of it.
type jobArgs struct {
	body       jobBody
	from, most int
	by         string // a member of its rows; "" for the order that the list has
	down       bool
}

// maxPlace bounds the numbers of pages, far beyond the end of every list.
const maxPlace = 1_000_000

// args reads Args.
func (b jobBody) args() jobArgs {
	args := b.object("Args")
	number, size := min(args.number("PageNumber", 1), maxPlace), min(args.number("PageSize", 100), maxPlace)
	size = min(size, args.number("Limit", size))
	a := jobArgs{body: args, from: (number - 1) * size, most: size, by: args.text("SortBy")}
	switch word := args.v.Get("direction"); strings.ToLower(word.Text()) {
	case "desc", "descending":
		a.down = true
	case "asc", "ascending":
	default:
		a.down = args.flag("direction")
	}
	return a
}

// pageOf returns the part of a list that is wanted, in the order that is wanted.
// Rows that are equal in what they are sorted by keep the order that they have.
func pageOf[T any](a jobArgs, rows []T) ([]T, error) {
	if a.by != "" {
		column := slices.IndexFunc(reflect.VisibleFields(reflect.TypeFor[T]()), func(f reflect.StructField) bool {
			return f.IsExported() && sortable(f.Type.Kind()) && strings.EqualFold(rowMember(f), a.by)
		})
		if column < 0 {
			a.body.fault("SortBy", "invalid_value", "there is no such member to sort by")
			return nil, a.body.err()
		}
		slices.SortStableFunc(rows, func(x, y T) int {
			if a.down {
				x, y = y, x
			}
			return compare(reflect.ValueOf(x).Field(column), reflect.ValueOf(y).Field(column))
		})
	}
	from := min(a.from, len(rows))
	return rows[from:min(from+a.most, len(rows))], nil
}

// rowMember is the name that a field has in JSON.
func rowMember(f reflect.StructField) string {
	if name := f.Tag.Get("json"); name != "" {
		return name
	}
	return f.Name
}

func sortable(k reflect.Kind) bool {
	return k == reflect.String || k == reflect.Int || k == reflect.Int64 || k == reflect.Bool
}

// compare compares values of one kind that is sortable; false is before true.
func compare(x, y reflect.Value) int {
	switch {
	case x.Kind() == reflect.String:
		return strings.Compare(x.String(), y.String())
	case x.CanInt():
		return cmp.Compare(x.Int(), y.Int())
	case x.Bool() == y.Bool():
		return 0
	case x.Bool():
		return 1
	}
	return -1
}
