/* An SMPP 3.4 load generator, in one thread with epoll: it must never be what limits a measurement.
 *
 * Built by the benches themselves (`stand.py`): cc -O2 -o generator generator.c
 *
 *   generator --port P --accounts FILE [--sessions S] [--window W] [--seconds T | --messages M] [--warm-up T]
 *             [--receipts 0|1] [--senders A,B,C] [--new-senders N] [--destinations PREFIX] [--data-coding C] [--rate R]
 *             [--watch PID] [--commits FILE]
 *       Binds S transceivers and keeps W submits in flight on each (with --rate: R a second in all, at most W in flight
 *       on each). After the warm-up it counts for T seconds, then waits until everything is answered and every receipt
 *       has come, unbinds, and prints one line of JSON. Submits may be refused: they are counted by command_status, and
 *       by account. Senders are chosen by chance, with --new-senders of N made-up ones (with both, half of the submits
 *       have one of each); so are destinations, with --destinations the prefix and seven digits.
 *   generator --port P --accounts FILE --idle N [--sources K]
 *       Opens N bound sessions, prints one line, and answers enquire_link until SIGTERM.
 *   generator --port P --accounts FILE --reconnect N [--sources K]
 *       Keeps N clients bound. When the server is gone, one of them knocks until it is let in again, and then all others
 *       connect in the same moment. Prints a line each time all N are bound; ends at SIGTERM.
 *   generator --sink P [--receipts 0|1] [--window W] [--trace 0|1]
 *       The other side: an SMSC that lets everybody bind and accepts everything at once. An upstream for others, and
 *       what the generator's own limit is measured against. Of what is not SMPP 3.4 it dies. With receipts it sends one
 *       for each message that asks for it, at most W of them unanswered on a session: where the message came, or to
 *       a receiver where that was a transmitter. Prints a line of JSON at SIGUSR1 and at SIGTERM, and with a trace one
 *       for each submit: when its answer was sent.
 *
 * FILE has a line "system_id password" for each account; the sessions take them in turn. --sources K spreads the clients
 * over the addresses 127.0.1.1, 127.0.1.2 …, as clients of different customers come from different addresses.
 * --watch PID (up to 8 times) reports the CPU of a process over the counted seconds, --commits FILE (an SQLite -shm
 * file) the transactions committed in them. Moments are seconds of CLOCK_MONOTONIC.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    GENERIC_NACK = 0x80000000, BIND_TRANSCEIVER = 0x09, SUBMIT_SM = 0x04, DELIVER_SM = 0x05, UNBIND = 0x06,
    ENQUIRE_LINK = 0x15, BIND_RECEIVER = 0x01, BIND_TRANSMITTER = 0x02, RESPONSE = 0x80000000
};
enum { MESSAGE_PAYLOAD = 0x0424 };
enum { HEADER = 16, LONGEST = 65536, MOST_WATCHED = 8, MOST_ACCOUNTS = 4096, MOST_SENDERS = 64, MOST_STATUSES = 64 };
#define SECOND 1000000000ull
#define DRAIN (30 * SECOND)   /* without anything coming, until what is missing is given up */
#define KNOCK (5 * 1000000ull) /* between two tries to reach a server that is away */
#define AT_ONCE 40             /* binds under way while idle sessions are opened */

struct buffer {
    uint8_t *octets;
    size_t length, room;
};

enum state { CLOSED, CONNECTING, BINDING, BOUND, LEAVING };

struct client {
    int fd;
    int number;
    enum state state;
    int waits_for_room;
    uint64_t again_at;
    uint32_t window_free;
    uint32_t *free_slots;
    uint64_t *sent_at;
    uint32_t *sequence_of;
    struct buffer rest, out;
    /* A sink's: what it is bound as, and the receipts that wait for room in the window. */
    uint32_t kind;
    struct buffer receipts;
    size_t receipts_begun;
};

static struct {
    const char *host, *accounts, *commits;
    int port, sessions, window, receipts, idle, reconnect, sources, sink, trace;
    double seconds, warm_up, rate;
    uint64_t messages;
    int watched[MOST_WATCHED], watched_count;
    const char *senders[MOST_SENDERS];
    int sender_count, new_senders, data_coding;
    const char *destinations;
} option = {.host = "127.0.0.1", .sessions = 1, .window = 10, .seconds = 5, .warm_up = 1, .sources = 0};

static struct { char system_id[64], password[64]; } account[MOST_ACCOUNTS];
static int account_count;
static struct client *clients;
static int client_count, bound_count;
static int poller;
static uint64_t now, random_state = 88172645463325252ull;
static volatile sig_atomic_t stopping;
static uint8_t shared[4 * LONGEST];

/* What is counted: in all, and within the measured seconds. */
static int counting, submitting;
static uint64_t total_submitted, total_acknowledged, total_refused, total_receipts, total_lost;
static uint64_t acknowledged, refused_counted, receipts_counted, in_flight_all;
static uint64_t last_heard, last_answer_at, receipts_expected;
static uint32_t *latency;
static size_t latencies, latency_room;
static struct { uint32_t status; uint64_t count, of_account[MOST_ACCOUNTS]; } refused[MOST_STATUSES];
static int refused_kinds;
static uint64_t binds_refused;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "generator: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * limit >> 32);
}

/* --- octets */

static uint8_t *reserve(struct buffer *b, size_t more) {
    if (b->length + more > b->room) {
        b->room = (b->length + more) * 2;
        b->octets = realloc(b->octets, b->room);
        if (!b->octets) die("no memory");
    }
    return b->octets + b->length;
}

static void put32(uint8_t *at, uint32_t value) {
    value = htonl(value);
    memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

static void put_header(uint8_t *at, uint32_t length, uint32_t command, uint32_t status, uint32_t sequence) {
    put32(at, length);
    put32(at + 4, command);
    put32(at + 8, status);
    put32(at + 12, sequence);
}

static uint8_t *put_text(uint8_t *at, const char *text) {
    size_t length = strlen(text) + 1;
    memcpy(at, text, length);
    return at + length;
}

static void put_plain(struct client *c, uint32_t command, uint32_t status, uint32_t sequence) {
    put_header(reserve(&c->out, HEADER), HEADER, command, status, sequence);
    c->out.length += HEADER;
}

/* A response with an empty or given C-octet string: bind_*_resp's system_id, submit_sm_resp's and deliver_sm_resp's
 * message_id. */
static void put_response(struct client *c, uint32_t command, uint32_t sequence, const char *text) {
    uint8_t *start = reserve(&c->out, HEADER + strlen(text) + 1);
    uint32_t length = (uint32_t)(put_text(start + HEADER, text) - start);
    put_header(start, length, command | RESPONSE, 0, sequence);
    c->out.length += length;
}

static void put_bind(struct client *c) {
    int which = c->number % account_count;
    uint8_t *start = reserve(&c->out, 256), *at = start + HEADER;
    at = put_text(at, account[which].system_id);
    at = put_text(at, account[which].password);
    at = put_text(at, "");
    *at++ = 0x34; /* interface_version */
    *at++ = 0;
    *at++ = 0;
    at = put_text(at, "");
    put_header(start, (uint32_t)(at - start), BIND_TRANSCEIVER, 0, 0x7ffffffe);
    c->out.length += (size_t)(at - start);
}

/* Prefixes of mobile numbers with how many digits follow. Where a code is shared between countries (+39, +44, +1, +358)
 * only the whole number tells the price, so the numbers must not be the same few. */
static const struct { const char *prefix; int digits; } mobile[] = {
    {"39347", 7}, {"39320", 7}, {"39338", 7}, {"39366", 7}, {"336", 8}, {"337", 8}, {"447400", 6}, {"447860", 6},
    {"1212", 7}, {"1415", 7}, {"49151", 8}, {"346", 8}, {"4179", 7}, {"48501", 6}, {"32475", 6}, {"4366412", 6},
};

static uint8_t *put_destination(uint8_t *at) {
    uint32_t which = random_below(sizeof mobile / sizeof *mobile);
    const char *prefix = option.destinations ? option.destinations : mobile[which].prefix;
    size_t length = strlen(prefix);
    int digits = option.destinations ? 7 : mobile[which].digits;
    memcpy(at, prefix, length);
    at += length;
    /* The first of the rest from 2 to 8: in North America it may not be 0 or 1. The last three from 100 on: the
     * simulator gives 001 to 011 a fate of their own. */
    *at++ = (uint8_t)('2' + random_below(7));
    for (int i = 1; i < digits; i++)
        *at++ = (uint8_t)(i == digits - 3 ? '1' + random_below(9) : '0' + random_below(10));
    *at++ = 0;
    return at;
}

static void make_window(struct client *c) {
    size_t window = (size_t)option.window;
    c->window_free = (uint32_t)window;
    c->free_slots = malloc(window * sizeof *c->free_slots);
    c->sequence_of = malloc(window * sizeof *c->sequence_of);
    c->sent_at = calloc(window, sizeof *c->sent_at);
    if (!c->free_slots || !c->sequence_of || !c->sent_at) die("no memory");
    for (uint32_t slot = 0; slot < window; slot++) {
        c->free_slots[slot] = slot;
        c->sequence_of[slot] = slot + 1;
    }
}

/* Takes a place in the window; returns the sequence number that goes with it. */
static uint32_t take_slot(struct client *c) {
    uint32_t slot = c->free_slots[--c->window_free];
    uint32_t sequence = c->sequence_of[slot];
    /* Slot and turn in one number: an answer finds its slot without a search, and no number comes back soon. */
    sequence = sequence + (uint32_t)option.window > 0x7ffffff0 ? slot + 1 : sequence + (uint32_t)option.window;
    c->sequence_of[slot] = sequence;
    c->sent_at[slot] = now;
    in_flight_all++;
    return sequence;
}

/* Gives the place back that an answer is for; returns for how many nanoseconds it was taken. */
static uint64_t free_slot(struct client *c, uint32_t sequence) {
    uint32_t slot = (sequence - 1) % (uint32_t)option.window;
    if (c->sequence_of[slot] != sequence || !c->sent_at[slot])
        die("an answer to sequence number %u, which is not under way", sequence);
    uint64_t took = now - c->sent_at[slot];
    c->sent_at[slot] = 0;
    c->free_slots[c->window_free++] = slot;
    in_flight_all--;
    return took;
}

static uint8_t *put_sender(uint8_t *at) {
    if (!option.new_senders || (option.sender_count && random_below(2)))
        return put_text(at, option.senders[random_below((uint32_t)option.sender_count)]);
    return at + sprintf((char *)at, "NEW%07u", random_below((uint32_t)option.new_senders)) + 1;
}

static void put_submit(struct client *c) {
    uint32_t sequence = take_slot(c);
    uint8_t *start = reserve(&c->out, 256), *at = start + HEADER;
    *at++ = 0; /* service_type */
    *at++ = 5; /* an alphanumeric source */
    *at++ = 0;
    at = put_sender(at);
    *at++ = 1;
    *at++ = 1;
    at = put_destination(at);
    memset(at, 0, 5); /* esm_class, protocol_id, priority_flag, schedule_delivery_time, validity_period */
    at += 5;
    *at++ = (uint8_t)option.receipts;
    *at++ = 0; /* replace_if_present_flag */
    *at++ = (uint8_t)option.data_coding;
    *at++ = 0; /* sm_default_msg_id */
    char text[96];
    int length = snprintf(text, sizeof text, "Your code is %06u. It is good for ten minutes: tell it to nobody.",
                          random_below(1000000));
    *at++ = (uint8_t)length;
    memcpy(at, text, (size_t)length);
    at += length;
    put_header(start, (uint32_t)(at - start), SUBMIT_SM, 0, sequence);
    c->out.length += (size_t)(at - start);
    total_submitted++;
}

/* --- connections */

static void watch_for(struct client *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void lose(struct client *c) {
    if (c->state == BOUND) {
        bound_count--;
        total_lost++;
        in_flight_all -= (uint64_t)option.window - c->window_free;
    }
    close(c->fd);
    c->state = CLOSED;
    c->rest.length = c->out.length = 0;
    c->waits_for_room = 0;
}

static void flush(struct client *c) {
    if (c->state == CLOSED || c->waits_for_room || !c->out.length) return;
    ssize_t sent = send(c->fd, c->out.octets, c->out.length, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) {
            lose(c);
            return;
        }
        sent = 0;
    }
    c->out.length -= (size_t)sent;
    if (c->out.length) {
        memmove(c->out.octets, c->out.octets + sent, c->out.length);
        c->waits_for_room = 1;
        watch_for(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
}

static void begin(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (option.sources) {
        int which = c->number % option.sources;
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(0x7f000101u + (uint32_t)(which / 250 << 8) + (uint32_t)(which % 250));
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option.port)};
    if (inet_pton(AF_INET, option.host, &to.sin_addr) != 1) die("--host must be an IPv4 address");
    c->state = CONNECTING;
    watch_for(c, EPOLLOUT, EPOLL_CTL_ADD);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) lose(c);
}

static void connected(struct client *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        lose(c);
        return;
    }
    c->state = BINDING;
    put_bind(c);
    watch_for(c, EPOLLIN, EPOLL_CTL_MOD);
}

/* --- what comes in */

static void count_latency(uint64_t nanoseconds) {
    if (latencies == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 1 << 16;
        latency = realloc(latency, latency_room * sizeof *latency);
        if (!latency) die("no memory");
    }
    uint64_t units = nanoseconds / 100;
    latency[latencies++] = units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
}

static void count_refusal(int which, uint32_t status) {
    int i;
    for (i = 0; i < refused_kinds && refused[i].status != status; i++) {
    }
    if (i == MOST_STATUSES) return;
    if (i == refused_kinds) refused[refused_kinds++].status = status;
    refused[i].count++;
    refused[i].of_account[which]++;
    refused_counted += (uint64_t)counting;
    total_refused++;
}

static void submit_answered(struct client *c, uint32_t status, uint32_t sequence) {
    uint64_t took = free_slot(c, sequence);
    last_answer_at = now;
    if (counting) count_latency(took);
    if (status) {
        count_refusal(c->number % account_count, status);
        return;
    }
    total_acknowledged++;
    receipts_expected += (uint64_t)option.receipts;
    acknowledged += (uint64_t)counting;
}

/* Whether a deliver_sm is a receipt: esm_class (5.2.12) stands behind service_type and the two addresses. */
static int is_receipt(const uint8_t *body, const uint8_t *end) {
    for (int text = 0; text < 3; text++) {
        if (text) body += 2; /* ton, npi */
        while (body < end && *body) body++;
        body++;
    }
    return body < end && (*body & 0x3c) == 0x04;
}

static void received(struct client *c, const uint8_t *pdu, uint32_t length) {
    uint32_t command = get32(pdu + 4), status = get32(pdu + 8), sequence = get32(pdu + 12);
    last_heard = now;
    switch (command) {
    case SUBMIT_SM | RESPONSE:
        submit_answered(c, status, sequence);
        break;
    case DELIVER_SM:
        if (is_receipt(pdu + HEADER, pdu + length)) {
            total_receipts++;
            receipts_counted += (uint64_t)counting;
        }
        put_response(c, DELIVER_SM, sequence, "");
        break;
    case BIND_TRANSCEIVER | RESPONSE:
        if (status) {
            binds_refused++;
            if (!option.reconnect) die("the bind of %s was refused: 0x%x", account[c->number % account_count].system_id, status);
            lose(c);
            return;
        }
        c->state = BOUND;
        bound_count++;
        break;
    case ENQUIRE_LINK:
        put_plain(c, ENQUIRE_LINK | RESPONSE, 0, sequence);
        break;
    case UNBIND:
        put_plain(c, UNBIND | RESPONSE, 0, sequence);
        break;
    case UNBIND | RESPONSE:
        c->state = LEAVING;
        break;
    case ENQUIRE_LINK | RESPONSE:
        break;
    default:
        die("an unexpected PDU: 0x%08x, status 0x%x", command, status);
    }
}

static void read_from(struct client *c, void (*handle)(struct client *, const uint8_t *, uint32_t)) {
    memcpy(shared, c->rest.octets, c->rest.length);
    ssize_t got = recv(c->fd, shared + c->rest.length, sizeof shared - c->rest.length, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) lose(c);
        return;
    }
    size_t length = c->rest.length + (size_t)got, start = 0;
    c->rest.length = 0;
    while (length - start >= HEADER && c->state != CLOSED) {
        uint32_t pdu = get32(shared + start);
        if (pdu < HEADER || pdu > LONGEST) die("a PDU of %u octets", pdu);
        if (length - start < pdu) break;
        handle(c, shared + start, pdu);
        start += pdu;
    }
    if (c->state != CLOSED && start < length) {
        memcpy(reserve(&c->rest, length - start), shared + start, length - start);
        c->rest.length = length - start;
    }
}

static void ready(struct client *c, uint32_t events) {
    if (c->state == CONNECTING) connected(c);
    else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_from(c, received);
    if (c->state != CLOSED && c->waits_for_room && events & EPOLLOUT) {
        c->waits_for_room = 0;
        watch_for(c, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void turn(int timeout_ms, void (*after)(struct client *)) {
    struct epoll_event events[512];
    int count = epoll_wait(poller, events, 512, timeout_ms);
    if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
    now = clock_now();
    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;
        if (c->state == CLOSED) continue;
        ready(c, events[i].events);
        if (after && c->state == BOUND) after(c);
        flush(c);
    }
}

/* --- what others use meanwhile */

static double cpu_of(int pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    if (!fgets(line, sizeof line, file)) die("%s is empty", path);
    fclose(file);
    unsigned long user, system;
    char *after_name = strrchr(line, ')');
    if (!after_name || sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die("%s: %s", path, line);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double cpu_watched(void) {
    double sum = 0;
    for (int i = 0; i < option.watched_count; i++) sum += cpu_of(option.watched[i]);
    return sum;
}

static double cpu_own(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* iChange of the WAL index (walformat, 2.1): incremented by each transaction that is committed. */
static uint32_t commits(void) {
    uint32_t count = 0;
    if (!option.commits) return 0;
    int fd = open(option.commits, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, &count, sizeof count, 8) != sizeof count) die("%s: %s", option.commits, strerror(errno));
    close(fd);
    return count;
}

/* --- modes */

static void bind_all(int at_once) {
    int next = 0;
    while (bound_count < client_count) {
        while (next < client_count && next - bound_count < at_once) begin(&clients[next++]);
        turn(1000, NULL);
        if (stopping) exit(0);
        for (int i = 0; i < next; i++)
            if (clients[i].state == CLOSED) die("client %d of %d was cut off before it was bound", i + 1, client_count);
    }
}

static uint64_t pace_began, pace_sent;

static void fill(struct client *c) {
    if (!submitting || option.rate > 0) return;
    while (c->window_free && !(option.messages && total_submitted >= option.messages)) put_submit(c);
}

/* With a rate: whatever is due, one each in turn. What finds all windows full is left out, not caught up later. */
static void fill_paced(void) {
    static int next;
    uint64_t due = (uint64_t)((double)(now - pace_began) / 1e9 * option.rate);
    for (int full = 0; pace_sent < due && full < client_count; next = (next + 1) % client_count) {
        struct client *c = &clients[next];
        if (c->state == BOUND && c->window_free) {
            put_submit(c);
            flush(c);
            pace_sent++;
            full = 0;
        } else
            full++;
    }
    pace_sent = due;
}

static void run_until(uint64_t end) {
    while (now < end && !stopping && bound_count) {
        if (option.messages && submitting && total_submitted >= option.messages) return;
        uint64_t left = (end - now) / 1000000 + 1;
        if (option.rate > 0 && submitting) {
            left = 1;
            fill_paced();
        }
        turn((int)(left > 1000 ? 1000 : left), fill);
    }
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    if (!latencies) return 0;
    size_t at = (size_t)(share * (double)latencies);
    return latency[at < latencies ? at : latencies - 1] / 1e4;
}

static void load(void) {
    bind_all(AT_ONCE);
    now = clock_now();
    submitting = 1;
    pace_began = now;
    for (int i = 0; i < client_count; i++) {
        fill(&clients[i]);
        flush(&clients[i]);
    }
    if (!option.messages) run_until(now + (uint64_t)(option.warm_up * 1e9));
    counting = 1;
    uint64_t began = now;
    double own = cpu_own(), others = cpu_watched();
    uint32_t committed = commits();
    run_until(now + (option.messages ? UINT64_MAX / 2 : (uint64_t)(option.seconds * 1e9)));
    submitting = 0;
    while (option.messages && in_flight_all && bound_count && !stopping) turn(1000, NULL);
    uint64_t ended = now;
    counting = 0;
    if (!bound_count || ended == began) die("every session was cut off");
    double took = (double)(ended - began) / 1e9;
    own = cpu_own() - own;
    others = cpu_watched() - others;
    committed = commits() - committed;
    last_heard = now;
    while ((in_flight_all || total_receipts < receipts_expected) && bound_count && now - last_heard < DRAIN && !stopping)
        turn(100, NULL);
    double drained = (double)(last_heard - ended) / 1e9;
    uint64_t lost = total_lost;
    for (int i = 0; i < client_count; i++) {
        if (clients[i].state != BOUND) continue;
        put_plain(&clients[i], UNBIND, 0, 0x7ffffffd);
        flush(&clients[i]);
    }
    for (uint64_t end = clock_now() + 2 * SECOND; bound_count && now < end;) {
        turn(100, NULL);
        bound_count = 0;
        for (int i = 0; i < client_count; i++) bound_count += clients[i].state == BOUND;
    }
    qsort(latency, latencies, sizeof *latency, by_value);
    double sum = 0;
    for (size_t i = 0; i < latencies; i++) sum += latency[i];
    printf("{\"seconds\": %.3f, \"acknowledged\": %lu, \"rate\": %.1f, \"mean_ms\": %.4f, \"p50_ms\": %.4f,"
           " \"p99_ms\": %.4f, \"max_ms\": %.4f, \"refused\": {",
           took, acknowledged, (double)acknowledged / took, latencies ? sum / 1e4 / (double)latencies : 0,
           percentile(0.5), percentile(0.99), percentile(1));
    for (int i = 0; i < refused_kinds; i++)
        printf("%s\"0x%08x\": %lu", i ? ", " : "", refused[i].status, refused[i].count);
    printf("}, \"refused_by_account\": [");
    for (int which = 0, some = 0; which < account_count; which++)
        for (int i = 0; i < refused_kinds; i++)
            if (refused[i].of_account[which])
                printf("%s[\"%s\", \"0x%08x\", %lu]", some++ ? ", " : "", account[which].system_id,
                       refused[i].status, refused[i].of_account[which]);
    printf("], \"refused_rate\": %.1f, \"receipts\": %lu, \"receipts_rate\": %.1f, \"drain_s\": %.3f, \"total_submitted\": %lu,"
           " \"total_acknowledged\": %lu, \"total_receipts\": %lu, \"receipts_expected\": %lu, \"unanswered\": %lu,"
           " \"sessions_lost\": %lu, \"generator_cpu\": %.4f, \"watched_cpu_s\": %.3f, \"commits\": %u,"
           " \"began_at\": %.6f, \"last_answer_at\": %.6f}\n",
           (double)refused_counted / took, receipts_counted, (double)receipts_counted / took, drained, total_submitted, total_acknowledged,
           total_receipts, receipts_expected, in_flight_all, lost, own / took, others, committed,
           (double)pace_began / 1e9, (double)last_answer_at / 1e9);
}

static void stay_idle(void) {
    uint64_t began = clock_now();
    bind_all(AT_ONCE);
    printf("{\"bound\": %d, \"seconds\": %.3f}\n", bound_count, (double)(clock_now() - began) / 1e9);
    fflush(stdout);
    while (!stopping) turn(1000, NULL);
    printf("{\"bound\": %d, \"sessions_lost\": %lu}\n", bound_count, total_lost);
}

static void reconnect(void) {
    uint64_t lost_at = clock_now(), let_in_at = 0, attempts = 0;
    int told = 0;
    begin(&clients[0]);
    while (!stopping) {
        turn(bound_count == client_count ? 1000 : 1, NULL);
        if (told && bound_count == 0) {
            told = 0;
            let_in_at = attempts = binds_refused = 0;
            lost_at = now;
        }
        if (told) continue;
        if (!let_in_at && clients[0].state == BOUND) let_in_at = now;
        for (int i = 0; i < (let_in_at ? client_count : 1); i++) {
            struct client *c = &clients[i];
            if (c->state != CLOSED || now < c->again_at) continue;
            c->again_at = now + (let_in_at ? 20 : 1) * KNOCK;
            attempts += let_in_at != 0;
            begin(c);
        }
        if (bound_count == client_count) {
            told = 1;
            printf("{\"bound\": %d, \"seconds\": %.3f, \"since_lost_s\": %.3f, \"attempts\": %lu, \"binds_refused\": %lu}\n",
                   bound_count, (double)(now - let_in_at) / 1e9, (double)(now - lost_at) / 1e9, attempts + 1,
                   binds_refused);
            fflush(stdout);
        }
    }
}

/* --- the sink */

static volatile sig_atomic_t asked;
static struct client *receiver; /* that takes the receipts of transmitters */
static uint64_t sunk, sunk_refused_receipts, first_sunk_at, last_sunk_at, id_base;

/* What of a submit_sm its receipt repeats: each address with its TON and NPI. */
struct submit {
    const uint8_t *source, *destination, *text;
    int registered_delivery, text_length;
};

/* The place behind a C-octet string of at most `most` octets. */
static const uint8_t *behind_text(const uint8_t *at, const uint8_t *end, size_t most) {
    const uint8_t *zero = at < end ? memchr(at, 0, (size_t)(end - at) < most ? (size_t)(end - at) : most) : NULL;
    if (!zero) die("a submit_sm whose texts don't end");
    return zero + 1;
}

static const uint8_t *behind_date(const uint8_t *at, const uint8_t *end) {
    const uint8_t *behind = behind_text(at, end, 17);
    if (behind - at != 1 && behind - at != 17) die("a submit_sm with a date of %d octets", (int)(behind - at));
    return behind;
}

/* SMPP 3.4, 4.4.1. */
static struct submit read_submit(const uint8_t *at, const uint8_t *end) {
    struct submit submit;
    at = behind_text(at, end, 6);
    submit.source = at;
    at = behind_text(at + 2, end, 21);
    submit.destination = at;
    if (at + 2 < end && !at[2]) die("a submit_sm without a destination");
    at = behind_text(at + 2, end, 21);
    at = behind_date(behind_date(at + 3, end), end);
    if (end - at < 5 || end - at - 5 < at[4]) die("a submit_sm that is too short");
    submit.registered_delivery = at[0];
    submit.text_length = at[4];
    submit.text = at + 5;
    int has_text = at[4] > 0;
    at += 5 + at[4];
    while (at < end) {
        if (end - at < 4 || end - at - 4 < (at[2] << 8 | at[3])) die("a submit_sm with half a TLV");
        has_text |= (at[0] << 8 | at[1]) == MESSAGE_PAYLOAD;
        at += 4 + (at[2] << 8 | at[3]);
    }
    if (!has_text) die("a submit_sm without a text");
    return submit;
}

static uint8_t *put_address(uint8_t *at, const uint8_t *address) {
    *at++ = address[0];
    *at++ = address[1];
    return put_text(at, (const char *)address + 2);
}

/* A delivery receipt as in SMPP 3.4, appendix B, that waits for its sequence number. */
static void put_receipt(struct client *c, const struct submit *submit, const char *id) {
    static char date[16];
    static time_t dated;
    time_t seconds = time(NULL);
    if (seconds != dated) {
        dated = seconds;
        strftime(date, sizeof date, "%y%m%d%H%M", gmtime(&seconds));
    }
    uint8_t *start = reserve(&c->receipts, 512), *at = start + HEADER;
    *at++ = 0; /* service_type */
    at = put_address(at, submit->destination);
    at = put_address(at, submit->source);
    *at++ = 4;        /* esm_class: a delivery receipt */
    memset(at, 0, 8); /* protocol_id up to sm_default_msg_id */
    at += 8;
    char *text = (char *)at + 1;
    int length = sprintf(text, "id:%s sub:001 dlvrd:001 submit date:%s done date:%s stat:DELIVRD err:000 text:", id, date, date);
    int quoted = submit->text_length < 20 ? submit->text_length : 20;
    memcpy(text + length, submit->text, (size_t)quoted);
    *at = (uint8_t)(length + quoted);
    at += 1 + *at;
    put_header(start, (uint32_t)(at - start), DELIVER_SM, 0, 0);
    c->receipts.length += (size_t)(at - start);
}

/* Sends what the window has room for. */
static void send_receipts(struct client *c) {
    struct buffer *waiting = &c->receipts;
    while (c->window_free && c->receipts_begun < waiting->length) {
        uint8_t *pdu = waiting->octets + c->receipts_begun;
        uint32_t length = get32(pdu);
        put32(pdu + 12, take_slot(c));
        memcpy(reserve(&c->out, length), pdu, length);
        c->out.length += length;
        c->receipts_begun += length;
        total_receipts++;
    }
    if (c->receipts_begun * 2 < waiting->length) return;
    waiting->length -= c->receipts_begun;
    if (waiting->length) memmove(waiting->octets, waiting->octets + c->receipts_begun, waiting->length);
    c->receipts_begun = 0;
}

static void sink_submit(struct client *c, const uint8_t *pdu, uint32_t length) {
    char id[24];
    if (c->state != BOUND || c->kind == BIND_RECEIVER) die("a submit_sm of somebody who may not");
    struct submit submit = read_submit(pdu + HEADER, pdu + length);
    sprintf(id, "%lu", id_base + ++sunk);
    put_response(c, SUBMIT_SM, get32(pdu + 12), id);
    last_sunk_at = now;
    if (!first_sunk_at) first_sunk_at = now;
    struct client *to = c->kind == BIND_TRANSCEIVER ? c : receiver;
    if (option.receipts && (submit.registered_delivery & 3) == 1 && to) put_receipt(to, &submit, id);
}

static void sink_received(struct client *c, const uint8_t *pdu, uint32_t length) {
    uint32_t command = get32(pdu + 4), sequence = get32(pdu + 12);
    switch (command) {
    case BIND_RECEIVER:
    case BIND_TRANSMITTER:
    case BIND_TRANSCEIVER:
        if (c->state != BINDING) die("a second bind");
        c->kind = command;
        c->state = BOUND;
        bound_count++;
        if (command == BIND_RECEIVER) receiver = c;
        put_response(c, command, sequence, "sink");
        break;
    case SUBMIT_SM:
        sink_submit(c, pdu, length);
        break;
    case DELIVER_SM | RESPONSE:
        free_slot(c, sequence);
        if (get32(pdu + 8)) sunk_refused_receipts++;
        break;
    case UNBIND:
        bound_count -= c->state == BOUND;
        c->state = LEAVING;
        put_plain(c, UNBIND | RESPONSE, 0, sequence);
        break;
    case ENQUIRE_LINK:
        put_plain(c, ENQUIRE_LINK | RESPONSE, 0, sequence);
        break;
    default:
        die("an unexpected PDU: 0x%08x, status 0x%x", command, get32(pdu + 8));
    }
}

static void sink_forget(struct client *c) {
    if (receiver == c) receiver = NULL;
    free(c->rest.octets);
    free(c->out.octets);
    free(c->receipts.octets);
    free(c->free_slots);
    free(c->sequence_of);
    free(c->sent_at);
    free(c);
}

static void sink_ready(struct client *c, uint32_t events) {
    uint64_t sunk_before = sunk;
    if (c->state == CLOSED) {
        sink_forget(c);
        return;
    }
    if (events & EPOLLOUT && c->waits_for_room) {
        c->waits_for_room = 0;
        watch_for(c, EPOLLIN, EPOLL_CTL_MOD);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_from(c, sink_received);
    send_receipts(c);
    flush(c);
    if (receiver && receiver != c && receiver->state == BOUND) {
        send_receipts(receiver);
        flush(receiver);
    }
    if (option.trace && sunk > sunk_before) {
        double answered_at = (double)clock_now() / 1e9;
        while (sunk_before < sunk) printf("%lu %.6f\n", ++sunk_before, answered_at);
        fflush(stdout);
    }
    if (c->state == CLOSED) sink_forget(c);
}

static void sink_tell(void) {
    printf("{\"submits\": %lu, \"first_at\": %.6f, \"last_at\": %.6f, \"receipts\": %lu, \"receipts_unanswered\": %lu,"
           " \"receipts_refused\": %lu, \"bound\": %d, \"sessions_lost\": %lu, \"cpu_s\": %.3f}\n",
           sunk, (double)first_sunk_at / 1e9, (double)last_sunk_at / 1e9, total_receipts, in_flight_all,
           sunk_refused_receipts, bound_count, total_lost, cpu_own());
    fflush(stdout);
}

static void ask(int number) {
    (void)number;
    asked = 1;
}

static void sink(void) {
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option.sink)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 1024))
        die("port %d: %s", option.sink, strerror(errno));
    struct client door = {.fd = listening, .state = CONNECTING};
    watch_for(&door, EPOLLIN, EPOLL_CTL_ADD);
    /* Signals come while it waits, and at no other time: so none is missed. */
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    struct sigaction action = {.sa_handler = ask};
    sigaction(SIGUSR1, &action, NULL);
    /* In microseconds: no id of a sink that ran here before comes again. */
    struct timespec today;
    clock_gettime(CLOCK_REALTIME, &today);
    id_base = (uint64_t)today.tv_sec * 1000000 + (uint64_t)today.tv_nsec / 1000;
    while (!stopping) {
        struct epoll_event events[512];
        int count = epoll_pwait(poller, events, 512, -1, &none);
        now = clock_now();
        if (asked) {
            asked = 0;
            sink_tell();
        }
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != &door) {
                sink_ready(events[i].data.ptr, events[i].events);
                continue;
            }
            int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            struct client *c = calloc(1, sizeof *c);
            if (!c) die("no memory");
            c->fd = fd;
            c->state = BINDING;
            make_window(c);
            watch_for(c, EPOLLIN, EPOLL_CTL_ADD);
        }
    }
    sink_tell();
}

/* --- the beginning */

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static void read_accounts(void) {
    FILE *file = fopen(option.accounts, "r");
    if (!file) die("%s: %s", option.accounts, strerror(errno));
    while (account_count < MOST_ACCOUNTS &&
           fscanf(file, "%63s %63s", account[account_count].system_id, account[account_count].password) == 2)
        account_count++;
    fclose(file);
    if (!account_count) die("%s: no account", option.accounts);
}

static void read_options(int count, char **arguments) {
    for (int i = 1; i < count; i += 2) {
        char *name = arguments[i], *value = arguments[i + 1];
        if (i + 1 == count) die("%s needs a value", name);
        if (!strcmp(name, "--host")) option.host = value;
        else if (!strcmp(name, "--port")) option.port = atoi(value);
        else if (!strcmp(name, "--accounts")) option.accounts = value;
        else if (!strcmp(name, "--sessions")) option.sessions = atoi(value);
        else if (!strcmp(name, "--window")) option.window = atoi(value);
        else if (!strcmp(name, "--seconds")) option.seconds = atof(value);
        else if (!strcmp(name, "--messages")) option.messages = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--warm-up")) option.warm_up = atof(value);
        else if (!strcmp(name, "--new-senders")) option.new_senders = atoi(value);
        else if (!strcmp(name, "--destinations")) option.destinations = value;
        else if (!strcmp(name, "--data-coding")) option.data_coding = atoi(value);
        else if (!strcmp(name, "--receipts")) option.receipts = atoi(value);
        else if (!strcmp(name, "--rate")) option.rate = atof(value);
        else if (!strcmp(name, "--idle")) option.idle = atoi(value);
        else if (!strcmp(name, "--reconnect")) option.reconnect = atoi(value);
        else if (!strcmp(name, "--sources")) option.sources = atoi(value);
        else if (!strcmp(name, "--sink")) option.sink = atoi(value);
        else if (!strcmp(name, "--trace")) option.trace = atoi(value);
        else if (!strcmp(name, "--commits")) option.commits = value;
        else if (!strcmp(name, "--watch")) {
            if (option.watched_count == MOST_WATCHED) die("--watch: at most %d", MOST_WATCHED);
            option.watched[option.watched_count++] = atoi(value);
        } else if (!strcmp(name, "--senders")) {
            for (char *each = strtok(value, ","); each && option.sender_count < MOST_SENDERS; each = strtok(NULL, ","))
                option.senders[option.sender_count++] = each;
        } else
            die("unknown option %s", name);
    }
    if (!option.sender_count && !option.new_senders) option.senders[option.sender_count++] = "BENCH";
    if (option.window < 1 || option.sessions < 1) die("--sessions and --window must be at least 1");
}

int main(int count, char **arguments) {
    read_options(count, arguments);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    now = clock_now();
    random_state ^= now;
    if (option.sink) {
        sink();
        return 0;
    }
    if (!option.accounts || !option.port) die("--port and --accounts are needed");
    read_accounts();
    client_count = option.idle ? option.idle : option.reconnect ? option.reconnect : option.sessions;
    int submits = !option.idle && !option.reconnect;
    if (!submits) option.window = 1;
    clients = calloc((size_t)client_count, sizeof *clients);
    if (!clients) die("no memory");
    for (int i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        c->number = i;
        make_window(c);
    }
    if (option.idle) stay_idle();
    else if (option.reconnect) reconnect();
    else load();
    return 0;
}
