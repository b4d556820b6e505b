// An SMSC on the npm package `smpp`, as its users write one. It tells on stdout what happens, one JSON value a line;
// tests/interop/foreign_server.py and test_node_smsc.py are at the other end.
//
// It takes each message, and sends its receipt 20 ms after its answer. A message "close" makes it close the connection
// without an answer; "unbind" makes it send an unbind, and close when that is answered; after "answer me" the handset
// sends a message to 44555.
'use strict';

const smpp = require('smpp');

const RECEIPT_MS = 20;
const RECEIPT = 0x04;
const port = Number(process.argv[2] || 0);
let lastId = 0;

function tell(event, values) {
  process.stdout.write(JSON.stringify({ event, ...values }) + '\n');
}

const server = smpp.createServer((session) => {
  function sendReceipt(submit, id) {
    session.deliver_sm(
      {
        esm_class: RECEIPT,
        source_addr: submit.destination_addr,
        destination_addr: submit.source_addr,
        short_message: `id:${id} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD err:000 text:`,
        receipted_message_id: id,
        message_state: 2,
      },
      (answer) => tell('answered', { id, status: answer.command_status }),
    );
  }

  session.on('bind_transceiver', (pdu) => {
    tell('bind', { system_id: pdu.system_id, password: pdu.password, interface_version: pdu.interface_version });
    session.send(pdu.response({ system_id: 'node' }));
  });
  session.on('enquire_link', (pdu) => session.send(pdu.response()));
  session.on('submit_sm', (pdu) => {
    const content = pdu.message_payload || pdu.short_message;
    const text = content.message;
    const udh = Buffer.concat(content.udh || []).toString('hex');
    tell('submit', { text, udh, source: pdu.source_addr, destination: pdu.destination_addr });
    if (text === 'close') {
      session.destroy();
      return;
    }
    lastId += 1;
    const id = lastId.toString(16).padStart(8, '0');
    session.send(pdu.response({ message_id: id }));
    if (text === 'unbind') {
      session.unbind((answer) => {
        tell('unbind answered', { status: answer.command_status });
        session.close();
      });
    } else if (pdu.registered_delivery) {
      setTimeout(() => sendReceipt(pdu, id), RECEIPT_MS);
    }
    if (text === 'answer me') {
      session.deliver_sm(
        { source_addr: pdu.destination_addr, source_addr_ton: 1, destination_addr: '44555', short_message: 'an answer €' },
        (answer) => tell('answered', { status: answer.command_status }),
      );
    }
  });
  session.on('unbind', (pdu) => {
    tell('unbind', {});
    session.send(pdu.response());
    session.close();
  });
  session.on('error', (error) => tell('error', { code: error.code }));
});

server.listen(port, '127.0.0.1', () => tell('listening', { port: server.address().port }));
