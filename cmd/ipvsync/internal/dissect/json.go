package dissect

import (
	"strconv"
	"time"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
)

// AppendJSON appends the message as one JSON object, without a newline. A time
// that the capture does not have is "".
func (m *Message) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"packet":`...)
	dst = strconv.AppendInt(dst, int64(m.Packet), 10)
	dst = append(dst, `,"time":"`...)
	if !m.Time.IsZero() {
		dst = m.Time.AppendFormat(dst, time.RFC3339Nano)
	}
	dst = append(dst, `","src":"`...)
	dst = m.Src.AppendTo(dst)
	dst = append(dst, `","dst":"`...)
	dst = m.Dst.AppendTo(dst)
	dst = append(dst, `","version":`...)
	dst = strconv.AppendUint(dst, uint64(m.Header.Version), 10)
	dst = append(dst, `,"syncid":`...)
	dst = strconv.AppendUint(dst, uint64(m.Header.SyncID), 10)
	dst = append(dst, `,"size":`...)
	dst = strconv.AppendUint(dst, uint64(m.Header.Size), 10)
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendUint(dst, uint64(m.Header.Count), 10)
	dst = append(dst, `,"records":[`...)
	for i := range m.Records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = record.Append(dst, &m.Records[i].Conn, m.Records[i].Refusal)
	}
	dst = append(dst, `],"error":`...)
	dst = record.AppendString(dst, m.Error)
	if len(m.Trailer) > 0 {
		dst = append(dst, `,"trailer":`...)
		dst = record.AppendBase64(dst, m.Trailer)
	}
	return append(dst, '}')
}
