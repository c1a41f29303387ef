// Package dissect says what a Linux backup would do with the datagrams of a
// capture, message by message and record by record, and prints it as JSON
// lines or as text.
//
//	capture.Datagram ──Dissector──► Message ──► AppendJSON, AppendText
//	                       │
//	                       └──────► Summary
//
// The backup is a stock Linux 6.1 with the persistence engine "sip" and the
// SyncID of the Dissector. What it never looks at is shown too, as refused: the
// records of a message that it ignores, and those behind one at which it stops.
//
// Limits: a backup whose sync-maxlen is smaller than the message cuts it and
// then ignores it; that is configuration, which no capture shows.
package dissect
