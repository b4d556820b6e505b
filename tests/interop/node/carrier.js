// A carrier's SMSC on the npm package `smpp` that behaves as badly as it is told to. It is driven over stdin and tells
// on stdout what happens, one JSON value a line; tests/faults/carriers.py is at the other end, and says what is meant.
'use strict';

const readline = require('readline');
const smpp = require('smpp');

const RECEIPT = 0x04;
const DELIVERED = 2;
const UNDELIVERABLE = 5;
const ENROUTE = 1;
const WORDS = { [ENROUTE]: 'ENROUTE', [DELIVERED]: 'DELIVRD', [UNDELIVERABLE]: 'UNDELIV' };
// How many receipts wait for their answer on a connection.
const RECEIPT_WINDOW = 50;
const RECEIPT_RETRY_MS = 100;
// What is collected to be answered in reverse order waits so long at most.
const COLLECTED_MS = 20;
// Between a receipt and the response that should have been before it.
const HELD_BACK_MS = 50;
const UNKNOWN_SEQUENCE = 0x40000000;
// With letters and zeros in front, and far from all ids that another reading of the digits makes of them.
const FIRST_ID = 0x5eed0000;
const ID_LENGTH = 12;
const RECEIPT_IDS = {
  decimal: (id) => String(parseInt(id, 16)),
  stripped: (id) => id.replace(/^0+/, ''),
  capitals: (id) => id.toUpperCase(),
};

const conduct = {
  password: '',
  bind_status: 0,
  silent: '',
  statuses: [],
  temporary: false,
  reverse: 0,
  late_every: 0,
  late_ms: 0,
  twice_every: 0,
  unknown_every: 0,
  receipt_first: false,
  receipt_twice_every: 0,
  receipt_unknown_every: 0,
  receipt_ids: '',
  close_after: 0,
};
// [text, destination, id, status, answered, came_at]: what it got, with its decision (-1: none), whether that was written,
// and when it came: microseconds, of a clock that is the same in all processes.
const submits = [];
const refusedOnce = new Set();
const receipts = [];
const counts = { receipts: 0, unknown_receipts: 0, unknown_answers: 0, repeated_answers: 0, closed: 0 };
const sessions = new Set();
const port = Number(process.argv[2]);

function tell(event, values) {
  process.stdout.write(JSON.stringify({ event, at: Date.now() / 1000, ...values }) + '\n');
}

function happens(every, number) {
  return every > 0 && number % every === 0;
}

// --- receipts, each of which is sent until it is answered, on whatever connection there is

function sendReceipts() {
  for (const session of sessions) {
    while (session.receives && session.unanswered.size < RECEIPT_WINDOW && receipts.length > 0) {
      sendReceipt(session, receipts.shift());
    }
  }
}

function sendReceipt(session, receipt) {
  const { id, state, source, destination } = receipt;
  session.unanswered.add(receipt);
  session.deliver_sm(
    {
      esm_class: RECEIPT,
      source_addr: source,
      destination_addr: destination,
      short_message:
        `id:${id} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:${WORDS[state]} err:000 text:`,
      receipted_message_id: id,
      message_state: state,
    },
    (answer) => {
      if (!session.unanswered.delete(receipt)) {
        return;
      }
      if (answer.command_status) {
        receipts.push(receipt);
        setTimeout(sendReceipts, RECEIPT_RETRY_MS);
      } else {
        counts.receipts += 1;
        sendReceipts();
      }
    },
  );
}

function queueReceipts(number, submit, messageId) {
  if (!submit.registered_delivery) {
    return;
  }
  const ends = { source: submit.destination_addr, destination: submit.source_addr };
  const id = conduct.receipt_ids ? RECEIPT_IDS[conduct.receipt_ids](messageId) : messageId;
  const final = { ...ends, id, state: submit.destination_addr.endsWith('7') ? UNDELIVERABLE : DELIVERED };
  if (happens(conduct.receipt_unknown_every, number)) {
    counts.unknown_receipts += 1;
    receipts.push({ ...final, id: `none-${number}` });
  }
  if (happens(conduct.receipt_twice_every, number)) {
    const passing = { ...ends, id, state: ENROUTE };
    receipts.push(passing, final, { ...final }, { ...passing });
  } else {
    receipts.push(final);
  }
}

// --- submits

function decide(submit, number) {
  if (conduct.statuses.length > 0) {
    return conduct.statuses[number % conduct.statuses.length];
  }
  if (submit.destination_addr.endsWith('3')) {
    return smpp.ESME_RINVDSTADR;
  }
  if (conduct.temporary && submit.destination_addr.endsWith('25') && !refusedOnce.has(submit.destination_addr)) {
    refusedOnce.add(submit.destination_addr);
    return smpp.ESME_RX_T_APPN;
  }
  return smpp.ESME_ROK;
}

function handleSubmit(session, submit) {
  if (session.closes) {
    return;
  }
  const number = submits.length;
  const text = submit.short_message.message;
  const record = [text, submit.destination_addr, '', -1, false, Number(process.hrtime.bigint() / 1000n)];
  submits.push(record);
  session.submitCount += 1;
  if (conduct.silent === 'submits') {
    return;
  }
  const status = decide(submit, number);
  const id = status ? '' : (FIRST_ID + number).toString(16).padStart(ID_LENGTH, '0');
  record[2] = id;
  record[3] = status;
  if (conduct.close_after > 0 && session.submitCount >= conduct.close_after) {
    session.closes = true;
    // It has the message, and what says so is cut in the middle every other time.
    counts.closed += 1;
    if (!status) {
      queueReceipts(number, submit, id);
    }
    const answer = submit.response({ message_id: id }).toBuffer();
    session.socket.end(counts.closed % 2 ? answer.subarray(0, answer.length / 2) : '');
    session.socket.destroySoon();
    return;
  }
  const answer = () => {
    const sent = session.send(submit.response(status ? { command_status: status } : { message_id: id }));
    record[4] = record[4] || sent;
    if (sent && happens(conduct.twice_every, number)) {
      counts.repeated_answers += 1;
      session.send(submit.response(status ? { command_status: status } : { message_id: id }));
    }
    if (sent && happens(conduct.unknown_every, number)) {
      counts.unknown_answers += 2;
      session.send(new smpp.PDU('submit_sm_resp', { sequence_number: UNKNOWN_SEQUENCE + number, message_id: id }));
      session.send(new smpp.PDU('generic_nack', { sequence_number: UNKNOWN_SEQUENCE + number, command_status: 8 }));
    }
  };
  const promise = () => {
    if (!status) {
      queueReceipts(number, submit, id);
      sendReceipts();
    }
  };
  if (conduct.receipt_first) {
    promise();
    // In the same segment, or well before it.
    if (number % 2) {
      answer();
    } else {
      setTimeout(answer, HELD_BACK_MS);
    }
  } else {
    scheduleAnswer(session, number, () => {
      answer();
      promise();
    });
  }
}

function scheduleAnswer(session, number, answer) {
  if (happens(conduct.late_every, number)) {
    setTimeout(answer, conduct.late_ms);
  } else if (conduct.reverse) {
    session.collected.push(answer);
    if (session.collected.length >= conduct.reverse) {
      answerCollected(session);
    } else {
      session.timer = session.timer || setTimeout(answerCollected, COLLECTED_MS, session);
    }
  } else {
    answer();
  }
}

function answerCollected(session) {
  clearTimeout(session.timer);
  session.timer = null;
  session.collected
    .splice(0)
    .reverse()
    .forEach((answer) => answer());
}

// --- connections

function handleBind(session, bind) {
  const status = bind.password === conduct.password ? conduct.bind_status : smpp.ESME_RINVPASWD;
  if (conduct.silent === 'binds') {
    tell('bind', { status: -1 });
    return;
  }
  session.send(bind.response(status ? { command_status: status } : { system_id: 'carrier' }));
  session.receives = !status && bind.command !== 'bind_transmitter';
  tell('bind', { status, kind: bind.command, submits: submits.length });
  sendReceipts();
}

const server = smpp.createServer((session) => {
  Object.assign(session, { receives: false, unanswered: new Set(), submitCount: 0, collected: [], timer: null, closes: false });
  sessions.add(session);
  for (const command of ['bind_transceiver', 'bind_transmitter', 'bind_receiver']) {
    session.on(command, (bind) => handleBind(session, bind));
  }
  session.on('submit_sm', (submit) => handleSubmit(session, submit));
  session.on('enquire_link', (pdu) => session.send(pdu.response()));
  session.on('unbind', (pdu) => {
    session.send(pdu.response());
    session.close();
  });
  session.on('close', () => {
    sessions.delete(session);
    session.receives = false;
    receipts.unshift(...session.unanswered);
    session.unanswered.clear();
    tell('closed', { submits: submits.length });
    sendReceipts();
  });
  session.on('error', (error) => tell('error', { code: error.code || error.message }));
});

const commands = {
  behave({ conduct: values }) {
    Object.assign(conduct, values);
    return {};
  },
  leave() {
    server.close();
    sessions.forEach((session) => session.destroy());
    return {};
  },
  cut() {
    sessions.forEach((session) => session.destroy());
    return {};
  },
  return() {
    server.listen(port, '127.0.0.1');
    return {};
  },
  write({ octets }) {
    sessions.forEach((session) => session.socket.write(Buffer.from(octets, 'hex')));
    return {};
  },
  count() {
    return { submits: submits.length, waiting_receipts: receipts.length, sessions: sessions.size, ...counts };
  },
  list() {
    return { submits };
  },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line);
  tell('done', { n: command.n, ...commands[command.do](command) });
});

server.listen(port, '127.0.0.1', () => tell('listening', {}));
