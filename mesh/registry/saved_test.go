package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What does not fit into the file is left out, so that the rest can be read again. The bytes are ones that
// JSON writes with six for each in a string.
func TestASnapshotIsNoLongerThanCanBeReadAgain(t *testing.T) {
	for _, size := range []int{400, 4 << 10, 64 << 10} {
		for _, most := range []int{100 << 10, 1 << 20} {
			s := saved{
				Mesh: "{hedgerow:m}:", Time: time.Now().UTC(), Needed: []string{"orders", "telemetry"}, Records: mesh.Records{},
				Head: mesh.Head{Epoch: 1, Revision: 4_000_000_000, Digest: strings.Repeat("0", 64)},
			}
			for i := range 10 {
				s.Records[fmt.Sprintf("routes/r%d", i)] = bytes.Repeat([]byte{'<'}, 100)
			}
			documents := map[instanceKey]*held{{"gone", mesh.RoleSidecar}: {}}
			n := most/size + 1
			for i := range n {
				raw := bytes.Repeat([]byte{'<'}, size)
				documents[instanceKey{fmt.Sprintf("n%07d", i), mesh.RoleSidecar}] = &held{raw: string(raw), doc: &document{}}
			}
			left := s.add(documents, most)
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if left == 0 || len(s.Documents)+left != n {
				t.Errorf("documents of %d bytes in %d: %d kept and %d left out of %d", size, most, len(s.Documents), left, n)
			}
			if len(b) > most {
				t.Errorf("documents of %d bytes in %d: %d bytes", size, most, len(b))
			}
			if len(b) < most*2/3 && len(b) < most-2*size {
				t.Errorf("documents of %d bytes in %d: only %d bytes, though %d are left out", size, most, len(b), left)
			}
			for i, d := range s.Documents {
				if d.Node != fmt.Sprintf("n%07d", i) {
					t.Fatalf("document %d is of %s", i, d.Node)
				}
			}
		}
	}
}
