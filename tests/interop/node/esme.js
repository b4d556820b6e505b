// An SMPP client on the npm package `smpp`, as its users write one. It is driven over stdin and tells what happens on
// stdout, one JSON value a line; tests/interop/driven.py is at the other end and says what the values mean.
'use strict';

const fs = require('fs');
const readline = require('readline');
const smpp = require('smpp');

const RECONNECT_MS = 200;
const RESEND_MS = 200;
const UDH_INDICATOR = 0x40;
// Characters of a part beside its UDH, or its sar_* parameters.
const GSM_PART = 153;
const UCS2_PART = 67;

// Without a name, a TLV is found under its number, as a Buffer.
smpp.addTLV('outgoing_id', { id: 0x1401, type: smpp.types.tlv.cstring });

let settings = null;
let session = null;

function tell(event, values) {
  process.stdout.write(JSON.stringify({ event, ...values }) + '\n');
}

function connect() {
  session = smpp.connect({
    url: `${settings.ca ? 'ssmpp' : 'smpp'}://${settings.host}:${settings.port}`,
    ca: settings.ca ? fs.readFileSync(settings.ca) : undefined,
    auto_enquire_link_period: 10000,
  });
  session.on(settings.ca ? 'secureConnect' : 'connect', bind);
  // The package answers nothing by itself, not even enquire_link.
  session.on('enquire_link', (pdu) => session.send(pdu.response()));
  session.on('deliver_sm', (pdu) => {
    session.send(pdu.response());
    tell('receipt', receipt(pdu));
  });
  session.on('unbind', (pdu) => {
    tell('unbind', {});
    session.send(pdu.response());
    session.close();
  });
  // An 'error' that nobody listens to ends the process; a 'close' follows it.
  session.on('error', (error) => tell('error', { code: error.code }));
  // There is no reconnecting but this.
  session.on('close', () => setTimeout(connect, RECONNECT_MS));
}

function bind() {
  const { bind: kind, system_id, password } = settings;
  session[`bind_${kind}`]({ system_id, password }, (pdu) => tell('bind', { status: pdu.command_status }));
}

function receipt(pdu) {
  return {
    esm_class: pdu.esm_class,
    source: pdu.source_addr,
    destination: pdu.destination_addr,
    text: pdu.short_message.message,
    receipted_message_id: pdu.receipted_message_id,
    message_state: pdu.message_state,
    network_error_code: pdu.network_error_code.toString('hex'),
    outgoing_id: pdu.outgoing_id,
  };
}

function submit(n, fields) {
  const pdu = { source_addr_ton: 5, source_addr_npi: 0, dest_addr_ton: 1, dest_addr_npi: 1, registered_delivery: 1 };
  session.submit_sm({ ...pdu, ...fields }, (answer) => {
    tell('answer', { n, status: answer.command_status, id: answer.message_id });
    if (answer.command_status === smpp.ESME_RTHROTTLED) {
      setTimeout(() => submit(n, fields), RESEND_MS);
    }
  });
}

function send({ n, text, to, source, way }) {
  // Left alone, the package writes GSM 03.38 and says data_coding 1, which means ASCII.
  const gsm = smpp.encodings.ASCII.match(text);
  const data_coding = gsm ? smpp.consts.ENCODING.SMSC_DEFAULT : smpp.consts.ENCODING.UCS2;
  const fields = { source_addr: source, destination_addr: to, data_coding };
  const reference = n & 0xff;
  if (way === 'payload') {
    submit(n, { ...fields, message_payload: text });
  } else if (way === 'udh') {
    parts(text, gsm).forEach((part, i, all) => {
      const udh = Buffer.from([5, 0, 3, reference, all.length, i + 1]);
      submit(n, { ...fields, esm_class: UDH_INDICATOR, short_message: { udh, message: part } });
    });
  } else if (way === 'sar') {
    parts(text, gsm).forEach((part, i, all) => {
      const sar = { sar_msg_ref_num: reference, sar_total_segments: all.length, sar_segment_seqnum: i + 1 };
      submit(n, { ...fields, ...sar, short_message: part });
    });
  } else if (way === 'data_coding by the package') {
    submit(n, { ...fields, data_coding: null, short_message: text });
  } else {
    submit(n, { ...fields, short_message: text });
  }
}

// Cuts no character in two: neither an escaped one of GSM 03.38 nor a surrogate pair.
function parts(text, gsm) {
  const most = gsm ? GSM_PART : UCS2_PART;
  const length = (character) => (gsm ? smpp.encodings.ASCII.encode(character).length : character.length);
  const cut = [''];
  let room = most;
  for (const character of text) {
    if (length(character) > room) {
      cut.push('');
      room = most;
    }
    cut[cut.length - 1] += character;
    room -= length(character);
  }
  return cut;
}

// The first line has the settings, each other one a message to send. The end of input is the end of the program.
readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const value = JSON.parse(line);
    if (settings) {
      send(value);
    } else {
      settings = value;
      connect();
    }
  })
  .on('close', () => process.exit(0));
