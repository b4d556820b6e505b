#!/usr/bin/perl
# An SMSC on Perl's Net::SMPP, as its users write one; tests/interop/foreign_server.py is at the other end.
use strict;
use warnings;
use Net::SMPP;

use constant {
    BIND_RECEIVER => 0x1, BIND_TRANSMITTER => 0x2, SUBMIT_SM => 0x4, UNBIND => 0x6, BIND_TRANSCEIVER => 0x9,
    ENQUIRE_LINK => 0x15, DELIVER_SM_RESP => 0x80000005, RECEIPT => 0x04, FIRST_ID => 1_000_000,
};

$| = 1;
my ($port) = @ARGV;
my $count = 0;
my $listening = Net::SMPP->new_listen('127.0.0.1', port => $port, smpp_version => 0x34, async => 1)
    or die "can't listen on $port: $!";
printf qq({"event":"listening","port":%d}\n), $port;

sub send_receipt {
    my ($esme, $submit, $id) = @_;
    my $text = sprintf 'id:%d sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD err:000 text:', $id;
    $esme->deliver_sm(
        esm_class => RECEIPT, source_addr => $submit->{destination_addr}, source_addr_ton => 1, source_addr_npi => 1,
        destination_addr => $submit->{source_addr}, short_message => $text,
    ) or die "no receipt: $!";
}

sub handle_submit {
    my ($esme, $submit) = @_;
    my $octets = length($submit->{message_payload} // '') ? $submit->{message_payload} : $submit->{short_message};
    my $id = FIRST_ID + ++$count;
    $esme->submit_sm_resp(seq => $submit->{seq}, message_id => $id) or die "no answer: $!";
    printf qq({"event":"submit","octets":"%s","data_coding":%d,"esm_class":%d,"source":"%s","destination":"%s"}\n),
        unpack('H*', $octets), $submit->{data_coding}, $submit->{esm_class}, $submit->{source_addr},
        $submit->{destination_addr};
    send_receipt($esme, $submit, $id) if $submit->{registered_delivery};
    if ($octets eq 'answer me') {
        $esme->deliver_sm(
            source_addr => $submit->{destination_addr}, source_addr_ton => 1, source_addr_npi => 1,
            destination_addr => '44555', short_message => "an answer \e\x65",
        ) or die "no answer of the handset: $!";
    }
}

sub serve {
    my ($esme) = @_;
    while (my $pdu = $esme->read_pdu()) {
        my $command = $pdu->{cmd};
        my %answer = (seq => $pdu->{seq});
        if ($command == BIND_TRANSCEIVER || $command == BIND_TRANSMITTER || $command == BIND_RECEIVER) {
            printf qq({"event":"bind","system_id":"%s","password":"%s"}\n), $pdu->{system_id}, $pdu->{password};
            my $method = {
                BIND_RECEIVER, 'bind_receiver_resp', BIND_TRANSMITTER, 'bind_transmitter_resp',
                BIND_TRANSCEIVER, 'bind_transceiver_resp',
            }->{$command};
            $esme->$method(%answer, system_id => 'perl');
        } elsif ($command == SUBMIT_SM) {
            handle_submit($esme, $pdu);
        } elsif ($command == ENQUIRE_LINK) {
            $esme->enquire_link_resp(%answer);
        } elsif ($command == DELIVER_SM_RESP) {
            printf qq({"event":"answered","status":%d}\n), $pdu->{status};
        } elsif ($command == UNBIND) {
            print qq({"event":"unbind"}\n);
            $esme->unbind_resp(%answer);
            return;
        }
    }
}

while (my $esme = $listening->accept()) {
    serve($esme);
    close $esme;
}
