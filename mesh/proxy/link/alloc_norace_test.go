//go:build !race

package link

// roundTripAllocs is the string of Authorization, which is in no table.
const roundTripAllocs = 1
