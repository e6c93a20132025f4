package main

// spoolKeeps are controls of what is kept on disk.
func spoolKeeps() []control {
	return []control{
		without("a spool has an end", "spool.go", "case s.bytes+size > s.opts.MaxBytes:", "case false:", "TestFull").orHangs(),
		without("a disk that fails promises nothing", "commit.go", "o.done(0, fmt.Errorf(\"%w: %w\", ErrFailed, err))", "o.done(0, nil)", "TestAFailingDiskPromisesNothing"),
		without("a file whose disk failed is opened anew", "commit.go", "	s.failed = err\n	for", "	for", "TestAFailingDiskPromisesNothing"),
		without("a disk without room gives on", "commit.go", "	if noRoom(err) {\n		return", "	if false {\n		return", "TestADiskWithoutRoomGivesOn"),
		without("what was delivered makes room on a full disk", "commit.go", "for _, seq := range removed {\n			if err := messages.Delete(key(seq)); err != nil {\n				return err\n			}\n		}\n		return tx.Bucket", "_ = messages\n		return tx.Bucket", "TestADiskWithoutRoomGivesOn"),
		without("what a record says is what was written", "record.go", "got != want {", "false && got != want {", "TestARecordThatIsNotWhatWasWrittenIsPutAside"),
		without("records are not given up for want of a key", "open.go", "if errors.Is(err, errKey) {", "if false {", "TestSealed"),
		without("a damaged file is read before it is written", "open.go", "if err := walk(path); err != nil {", "if false {", "TestADamagedFileGivesUpNothingItStillHas"),
		without("a damaged file does not stop the bridge", "open.go", "if err == nil || !isDamage(err) {", "if true {", "TestADamagedFileGivesUpNothingItStillHas"),
		without("a damaged file stays until it is salvaged", "open.go", "if err = errors.Join(err, s.shut()); err != nil {", "if err = errors.Join(s.shut()); err != nil {", "TestADamagedFileIsLeftUntilItIsSalvaged"),
		without("a crash as it is replaced costs nothing", "open.go", "if err := os.Rename(s.salvagedName(), s.path()); err != nil", "if err := os.Rename(s.salvagedName()+\".x\", s.path()); err != nil", "TestADamagedFileIsLeftUntilItIsSalvaged"),
		without("removals are written", "commit.go", "last\n\tfor _, seq := range removed {\n\t\tif err := messages.Delete(key(seq)); err != nil {", "last\n\tfor _, seq := range removed {\n\t\tif err := error(nil); err != nil || seq == 0 {", "TestWhatIsKeptOutlivesTheProcess"),
	}
}

// powerCuts are controls of what a power cut leaves.
func powerCuts() []control {
	const open, cut = "../../../mqttbridge/spool/open.go", "TestWhatWasAcknowledgedOutlivesAPowerCut"
	return []control{
		without("what is acknowledged was synced", open, "NoFreelistSync: true,", "NoSync: true, NoFreelistSync: true,", cut),
		without("a new file's name was synced", open, "err = syncDir(filepath.Dir(path))", "err = nil", cut),
		without("a sync that failed is made up for", open, "_, err = f.WriteAt(first[:n], 0)", "_, err = n, nil", "TestAFailedSyncIsMadeUpFor"),
	}
}

// spooledDelivery are controls of how kept messages are delivered.
func spooledDelivery() []control {
	return []control{
		without("nothing overtakes what is spooled", "lanes.go", "it.message.QoS > 0 && b.queue.has(key) {", "false {", "TestAMessageThatAsksForDeliveryIsSpooledAfterAWhile"),
		without("old messages are given up", "spooled.go", "time.Now().After(r.Expires):", "false:", "TestOldMessagesBecomeDeadLetters"),
		without("a wrong clock makes nothing old", "spooled.go", "expires = time.Time{}", "expires = now.Add(age)", "TestMessagesOfAWrongClockAreNotOld"),
		without("a message that rots holds up none", "spooled.go", "case errors.Is(err, spool.ErrFailed):", "case !errors.Is(err, spool.ErrGone) && err != nil:", "TestAMessageThatRotsHoldsUpNobody"),
		without("a message that is refused for good holds up none", "spooled.go", "case refusal.Permanent():", "case false:", "TestWhatAServiceRefusesForGoodHoldsUpNobody"),
		without("who is told of a refusal keeps the message", "bridge.go", "it.failFast = m.Told || b.spool == nil", "it.failFast = false", "TestWhoIsToldOfARefusalKeepsItsMessage"),
		without("a message keeps its name", "spooled.go", "ID: it.id, Client", "Client", "TestAMessageThatAsksForDeliveryIsSpooledAfterAWhile").orHangs(),
		without("a web page purges nothing", "deadletters.go", "|| r.Header.Get(\"Origin\") != \"\"", "", "TestDeadLettersOverHTTP"),
		without("purging all is said", "deadletters.go", "if (len(a.IDs) == 0) != a.All {", "if false {", "TestDeadLettersOverHTTP"),
	}
}

// packetIdentifiers is how the embedded broker keeps those of both directions apart.
func packetIdentifiers() []control {
	const apart = "TestPacketIdentifiersOfBothDirectionsAreApart"
	return []control{
		without("what is on its way to a client is kept", "hook.go", "pk = c.renumber(cl, pk)", "_ = c.renumber", apart),
		without("what goes to a client meanwhile is kept", "hook.go", "return c.settle(pk), nil", "return pk, nil", "TestACommandMayTakeTheIdentifierOfWhatIsDelivered").orHangs(),
		without("what could not be written is forgotten", "hook.go", "\th.unsettled(cl, c, err)\n", "", "TestAnAcknowledgementThatWasNotWrittenIsForgotten"),
		without("an acknowledgement has the identifier that came", "hook.go", "pk.PacketID = c.cameAs(pk.PacketID)", "_ = c.cameAs", apart),
	}
}
