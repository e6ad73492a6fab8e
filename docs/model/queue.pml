/* The protocol of the queue: from a closed series to a result that is known to lie in the PACS.
 *
 * One series whose set of images changes (late slices, and back again), two of each role that remembers something
 * between two transactions, the retention sweep and a person at the command line, all on one store. Each d_step is one
 * transaction, of the function that its comment names (storage/). README.md beside this file tells what is left out,
 * what S1 to S10 and `ends` mean, and how to run it. -D with the name of a mutation takes one guard away, and spin
 * finds what that guard is for.
 */

#ifndef CHANGES
#define CHANGES 2       /* the set of images changes so often after the first */
#endif
#ifndef TROUBLES
#define TROUBLES 1      /* of any kind: a role dies or is told to stop; one that lives is taken for dead; a job fails; the
                         * PACS fails, loses what it acknowledged or sends no report; a person cancels, retries, closes,
                         * purges or lowers max_attempts */
#endif
#ifndef HOSTILE
#define HOSTILE 0       /* 1: any job may kill any worker, and the PACS may lose anything, without end */
#endif

#define KEYS 2          /* sets of images: a job's key is (series, set), bundle and settings being the same */
#define NONE KEYS
#define ROWS 5          /* delivery ids are 1 .. ROWS - 1, 0 is none */
#define SEND_AGAIN 1

/* SeriesState, JobState and DeliveryState of storage/tables.py (0: there is no such row; REFUSED is as GAVE_UP),
 * reports of the PACS, its answers to a C-STORE. */
mtype = { RECEIVING, CLOSED, QUEUED, INELIGIBLE, LEASED, DONE, FAILED, SUPERSEDED, CANCELLED,
          DUE, SENDING, SENT, CONFIRMED, GAVE_UP, ASKED, COMMITTED, MISSING, SUCCESS, FAILURE };

typedef Job {           /* of one key: job[key] */
    mtype state;
    unsigned token : 3;
    unsigned attempts : 2;
    bit expired;        /* lease_until < now */
    bit superseded;     /* superseded_by is not null */
    bit purged;         /* by a purge, which took its report: the same set would be analysed again */
    bit result_purged;  /* Result.purged_at is not null: file and rows are to be erased */
    unsigned delivery : 3 /* id of the delivery of its result */
};
typedef Delivery {      /* delivery[id] */
    mtype state;
    bit key;            /* of its job: the result's UID derives from it */
    bit overdue;        /* sending, and next_at < now: its dispatcher is taken for dead */
    bit dropped;        /* closed because its job was superseded */
    mtype report;       /* of a storage commitment, or a query: ASKED, then COMMITTED or MISSING */
    bit sent_since;     /* sent again after it was asked about */
    unsigned missing : 2
};

/* The store. */
mtype series = RECEIVING;
unsigned arrivals : 2 = 1;  /* SeriesRow.arrivals: tells one state of a series from another */
Job job[KEYS];
Delivery delivery[ROWS];

/* The configuration. */
unsigned max_attempts : 2 = 2;

/* What a role remembers between two transactions, and forgets when it dies. The second of a pair takes something up
 * only while the first is busy: the two being alike, the other orders are the same with names changed. */
typedef WorkerMemory { unsigned key : 2 = NONE; unsigned token : 3; bit is_half_done };
typedef SelectorMemory { unsigned key : 2 = NONE; unsigned arrivals : 2; bit is_known };
typedef CourierMemory { unsigned id : 3; bit uid; mtype answer; bit is_down };
WorkerMemory worker[2];
SelectorMemory selector[2];
CourierMemory courier[2];
bit is_marked[KEYS];        /* of retention */
unsigned new_id : 3;

/* Outside. */
bit wanted;                 /* key that is chosen of the images as they are now */
bit at_pacs[KEYS];          /* the PACS holds the object of this UID */
unsigned changes : 2 = CHANGES, troubles : 3 = TROUBLES;    /* still to come */

/* What the assertions look at, and the code does not know. */
unsigned newest : 2 = NONE; /* key that was queued last */
bit answered_success[KEYS]; /* the PACS has answered success to a C-STORE */
byte copies[KEYS];          /* objects of one result in the PACS */
byte made[KEYS];            /* rows of one key in the job table */
bit is_published[KEYS];     /* and not purged since */
bit is_orphan[KEYS];        /* the worker that has the lease is dead */
bit is_given_up[KEYS];      /* a person has cancelled it, or closed its delivery */

#define trouble             troubles > 0 -> troubles--
#define misfortune          (HOSTILE || troubles > 0) -> troubles = troubles - 1 + HOSTILE
#define row_of(key_)        delivery[job[key_].delivery]
#define was_purged(key_)    (job[key_].purged && (job[key_].state == CANCELLED || job[key_].state == DONE))
#define is_unfinished(key_) (job[key_].state == QUEUED || job[key_].state == LEASED)
#define on_the_way(id_)     (delivery[id_].state == DUE || delivery[id_].state == SENDING)
#define may_be_sent(id_)    (on_the_way(id_) || delivery[id_].state == SENT || delivery[id_].state == CLOSED)
#define may_be_confirmed(id_) (may_be_sent(id_) || delivery[id_].state == GAVE_UP)
#define has_ended(id_)      (delivery[id_].state == CONFIRMED || delivery[id_].state == CLOSED)

inline change(id_, to_) {       /* delivery_rows.change */
    delivery[id_].state = to_; delivery[id_].overdue = 0
}

/* ---- The sender: after the first images others; each makes the series `receiving` again. */

active proctype Sender() {
end:
    do
    :: d_step { changes > 0 -> changes--; arrivals++; series = RECEIVING; wanted = 1 - wanted }
    :: d_step { changes > 0 -> changes--; arrivals++; series = RECEIVING }
    od
}

/* ---- Selection, and enqueueing.enqueue: the one job of a key; the other is superseded. */

inline bring_back(key_) {
    if
    :: job[key_].state == SUPERSEDED || was_purged(key_) ->
        job[key_].state = QUEUED; job[key_].attempts = 0; job[key_].purged = 0
    :: else
    fi;
    job[key_].superseded = 0;
    if
    :: row_of(key_).state == CLOSED && row_of(key_).dropped ->
        change(job[key_].delivery, DUE); row_of(key_).dropped = 0
    :: else
    fi
}

inline supersede(key_) {
    if
    :: job[key_].state == 0 || job[key_].superseded
#ifdef CANCELLED_STANDS
    :: job[key_].state == CANCELLED
#endif
    :: else ->
        job[key_].superseded = 1;
        if
#ifdef SUPERSEDE_QUEUED_ONLY
        :: job[key_].state == QUEUED -> job[key_].state = SUPERSEDED
#else
        :: is_unfinished(key_) -> job[key_].state = SUPERSEDED; job[key_].expired = 0; is_orphan[key_] = 0
#endif
        :: else
        fi;
        if
        :: on_the_way(job[key_].delivery) -> change(job[key_].delivery, CLOSED); row_of(key_).dropped = 1
        :: else
        fi
    fi
}

inline enqueue(key_, arrivals_, is_known_) {
    if
#ifdef STALE_CHOICE
    :: series != CLOSED && series != QUEUED
#else
    :: (series != CLOSED && series != QUEUED) || arrivals != arrivals_      /* SeriesChanged */
#endif
    :: else ->
        series = QUEUED;
        if
        :: job[key_].state == 0 -> job[key_].state = QUEUED; made[key_]++
#ifdef NO_UNIQUE_KEY
        :: job[key_].state != 0 && !is_known_ -> made[key_]++
#endif
        :: else ->
            if
            :: job[key_].superseded || was_purged(key_) -> bring_back(key_)
            :: else
            fi
        fi;
#ifndef NO_SUPERSEDE
        supersede(1 - key_);
#endif
        newest = key_;
        assert(made[key_] == 1);                            /* S3 */
        assert(key_ == wanted)                              /* S4 */
    fi
}

inline forget_choice() {
    selector[me].key = NONE; selector[me].arrivals = 0; selector[me].is_known = 0
}

proctype Selector(bit me) {
end:
    do
    :: d_step { series == RECEIVING -> series = CLOSED }                                    /* series.close_series */
    :: d_step { series == CLOSED && selector[me].key == NONE && (me == 0 || selector[0].key != NONE) ->
            selector[me].key = wanted; selector[me].arrivals = arrivals;
#ifdef NO_UNIQUE_KEY
            selector[me].is_known = (job[wanted].state != 0)
#endif
        }
    :: d_step { selector[me].key != NONE ->
            enqueue(selector[me].key, selector[me].arrivals, selector[me].is_known); forget_choice() }
    :: d_step { selector[me].key != NONE && trouble; forget_choice() }                      /* dies */
    od
}

/* ---- Workers. One that is slow, and goes on when another has its job, is the one "back from the dead" of promise 5. */

#define held                worker[me].key
#ifdef NO_FENCING
#define in_force            (job[held].state == LEASED)
#else
#define in_force            (job[held].state == LEASED && job[held].token == worker[me].token)
#endif
#define is_free(key_)       ((job[key_].state == QUEUED || (job[key_].state == LEASED && job[key_].expired)) && \
                             job[key_].attempts < max_attempts)
#define is_idle             (held == NONE && (me == 0 || worker[0].key != NONE))

inline lease(key_) {            /* queue.lease */
    job[key_].state = LEASED; job[key_].expired = 0; job[key_].token++;
#ifndef UNCOUNTED_LEASES
    job[key_].attempts++;
#endif
    held = key_; worker[me].token = job[key_].token;
    is_orphan[key_] = 0;
    assert(key_ == newest)                                  /* S4 */
}

inline end_lease(to_) {
    job[held].state = to_; job[held].expired = 0; is_orphan[held] = 0
}

#define is_in_use(id_)      (job[0].delivery == id_ || job[1].delivery == id_)
#ifdef REUSED_IDS
#define is_remembered(id_)  false
#else
#define is_remembered(id_)  (courier[0].id == id_ || courier[1].id == id_)
#endif

inline publish() {              /* publication.publish: a result that is made again keeps its rows */
    if
    :: job[held].delivery == 0 ->
        new_id = 1;             /* one that was never given: nobody knows it */
        do
        :: is_in_use(new_id) || is_remembered(new_id) -> new_id++
        :: else -> break
        od;
        job[held].delivery = new_id; new_id = 0; row_of(held).key = held
    :: else
    fi;
    change(job[held].delivery, DUE); row_of(held).dropped = 0;
    job[held].purged = 0; job[held].result_purged = 0; is_given_up[held] = 0
}

inline forget_lease() {
    held = NONE; worker[me].token = 0; worker[me].is_half_done = 0
}

proctype Worker(bit me) {
end:
    do
    :: d_step { is_idle && is_free(0) -> lease(0) }
    :: d_step { is_idle && is_free(1) -> lease(1) }
    :: d_step { held != NONE && in_force && job[held].expired -> job[held].expired = 0 }    /* queue.heartbeat */
    :: d_step { held != NONE && in_force && !worker[me].is_half_done ->                     /* queue.finish */
            assert(worker[me].token == job[held].token);    /* S1 */
            assert(!is_published[held]);                    /* S2 */
            assert(held == newest);                         /* S4 */
            end_lease(DONE); job[held].attempts = 0; is_published[held] = 1;
#ifdef TWO_TRANSACTIONS
            worker[me].is_half_done = 1
        }
    :: d_step { worker[me].is_half_done ->
#endif
            publish(); forget_lease() }
    :: d_step { held != NONE && in_force && trouble;                                        /* queue.fail */
            if
            :: job[held].attempts < max_attempts -> end_lease(QUEUED)
            :: else -> end_lease(FAILED)
            fi;
            forget_lease() }
    :: d_step { held != NONE && in_force && trouble;                                        /* queue.release */
            job[held].attempts--; end_lease(QUEUED); forget_lease() }
    :: d_step { held != NONE && !in_force && !worker[me].is_half_done -> forget_lease() }   /* LeaseLost */
    :: d_step { held != NONE && misfortune;                                                 /* dies */
            is_orphan[held] = is_orphan[held] || (job[held].state == LEASED && job[held].token == worker[me].token);
            forget_lease() }
    od
}

/* ---- Couriers: at least once to the PACS; there it is one object, since its UID is one. */

#define sending             courier[me].id
#define is_at_home          (sending == 0 && !courier[me].is_down && (me == 0 || courier[0].id > 0))
#ifdef NO_RECOVERY
#define is_due(id_)         (delivery[id_].state == DUE)
#else
#define is_due(id_)         (delivery[id_].state == DUE || (delivery[id_].state == SENDING && delivery[id_].overdue))
#endif
#ifdef LATE_FAILURE
#define failure_counts(id_) (on_the_way(id_) || delivery[id_].state == SENT)
#else
#define failure_counts(id_) on_the_way(id_)
#endif

inline mark_sending(key_) {     /* deliveries.mark_sending */
    sending = job[key_].delivery; courier[me].uid = key_;
    change(sending, SENDING);
    assert(key_ == newest)                                  /* S4 */
}

inline arrive() {               /* at the PACS */
#ifdef FRESH_UIDS
    copies[courier[me].uid]++;
#else
    copies[courier[me].uid] = 1;
#endif
    at_pacs[courier[me].uid] = 1;
    assert(copies[courier[me].uid] == 1)                    /* S7 */
}

inline say(answer_) {
    courier[me].answer = answer_;
    answered_success[courier[me].uid] = answered_success[courier[me].uid] || answer_ == SUCCESS
}

inline confirm(id_) {           /* deliveries.confirm */
    change(id_, CONFIRMED);
    assert(at_pacs[delivery[id_].key])                      /* S5 */
}

inline mark_sent() {            /* deliveries.mark_sent */
    if
    :: may_be_sent(sending) ->
        change(sending, SENT); delivery[sending].sent_since = (delivery[sending].report != 0);
        assert(answered_success[delivery[sending].key]);    /* S6 */
#ifdef CONFIRM_UNASKED
        confirm(sending)
#endif
    :: else
    fi
}

inline mark_failed(to_) {       /* deliveries.mark_retry, mark_refused */
    if
    :: failure_counts(sending) -> change(sending, to_)
    :: else
    fi
}

inline land() {
    sending = 0; courier[me].uid = 0; courier[me].answer = 0
}

inline recover_sending(key_) {  /* deliveries.recover_sending, when a dispatcher starts */
    if
#ifndef NO_RECOVERY
    :: row_of(key_).state == SENDING -> change(job[key_].delivery, DUE)
#endif
    :: else
    fi
}

proctype Courier(bit me) {
end:
    do
    :: d_step { is_at_home && is_due(job[0].delivery) -> mark_sending(0) }
    :: d_step { is_at_home && is_due(job[1].delivery) -> mark_sending(1) }
    /* C-STORE: stored; stored, and the answer lost; failed; acknowledged, and lost. */
    :: d_step { sending > 0 && courier[me].answer == 0 -> arrive(); say(SUCCESS) }
    :: d_step { sending > 0 && courier[me].answer == 0 && trouble; arrive(); say(FAILURE) }
    :: d_step { sending > 0 && courier[me].answer == 0 && trouble; say(FAILURE) }
    :: d_step { sending > 0 && courier[me].answer == 0 && misfortune; say(SUCCESS) }
    :: d_step { courier[me].answer == SUCCESS -> mark_sent(); land() }
    :: d_step { courier[me].answer == FAILURE -> mark_failed(DUE); land() }
    :: d_step { courier[me].answer == FAILURE -> mark_failed(GAVE_UP); land() }
    :: d_step { sending > 0 && trouble; land(); courier[me].is_down = 1 }                   /* dies */
    :: d_step { courier[me].is_down -> recover_sending(0); recover_sending(1); courier[me].is_down = 0 }
    od
}

/* ---- What befalls one job and its delivery: the dispatcher's sweeps, the PACS that reports, time, a person. */

inline reap(key_) {             /* queue.reap */
    job[key_].expired = 0; is_orphan[key_] = 0;
    if
    :: job[key_].attempts >= max_attempts -> job[key_].state = FAILED
    :: else -> job[key_].state = QUEUED
    fi
}
#ifdef STRANDED
#define is_lost(key_)       (job[key_].state == LEASED && job[key_].expired)
#else
#define is_lost(key_)       ((job[key_].state == LEASED && job[key_].expired) || \
                             (job[key_].state == QUEUED && job[key_].attempts >= max_attempts))
#endif

inline apply(key_) {            /* confirmations._apply, _missing */
    if
    :: row_of(key_).report == COMMITTED && may_be_confirmed(job[key_].delivery) -> confirm(job[key_].delivery)
    :: row_of(key_).report == MISSING && row_of(key_).state == SENT && !row_of(key_).sent_since ->
        if
#ifndef RESEND_SUPERSEDED
        :: job[key_].superseded -> change(job[key_].delivery, CLOSED); row_of(key_).dropped = 1
#endif
        :: else ->
            if
            :: row_of(key_).missing < SEND_AGAIN ->
#ifndef UNCOUNTED_SENDINGS
                row_of(key_).missing++;
#endif
                change(job[key_].delivery, DUE)
            :: else -> change(job[key_].delivery, GAVE_UP)
            fi
        fi
    :: else
    fi;
    row_of(key_).report = 0; row_of(key_).sent_since = 0
}

inline cancel_job(key_) {       /* queue.cancel_job */
    job[key_].state = CANCELLED; job[key_].attempts = 0; job[key_].expired = 0; job[key_].purged = 0;
    is_orphan[key_] = 0; is_given_up[key_] = 1
}

#ifdef RETRY_SUPERSEDED_DELIVERY
#define may_be_sent_again(key_) (row_of(key_).state == GAVE_UP)
#else
#define may_be_sent_again(key_) (row_of(key_).state == GAVE_UP && !job[key_].superseded)
#endif
#define is_handled(key_)    (courier[0].id == job[key_].delivery || courier[1].id == job[key_].delivery)

proctype Upkeep(bit key) {
end:
    do
#ifndef NO_REAP
    :: d_step { is_lost(key) -> reap(key) }
#endif
    :: d_step { row_of(key).state == SENT && row_of(key).report == 0 ->                     /* confirmations.mark_asked */
            row_of(key).report = ASKED; row_of(key).sent_since = 0 }
    :: d_step { row_of(key).state == SENT && row_of(key).report == ASKED && trouble;        /* the same: _give_up */
            change(job[key].delivery, GAVE_UP) }
    :: d_step { row_of(key).report == COMMITTED || row_of(key).report == MISSING -> apply(key) }

    /* The PACS: confirmations.record_report; or no report, and it is asked again. */
    :: d_step { row_of(key).report == ASKED -> row_of(key).report = (at_pacs[key] -> COMMITTED : MISSING) }
    :: d_step { row_of(key).report == ASKED && trouble; row_of(key).report = 0 }

    /* Time: what the dead held falls due; now and then what the living hold does, too. */
    :: d_step { job[key].state == LEASED && !job[key].expired && is_orphan[key] -> job[key].expired = 1 }
    :: d_step { job[key].state == LEASED && !job[key].expired && trouble; job[key].expired = 1 }
    :: d_step { row_of(key).state == SENDING && !row_of(key).overdue && !is_handled(key) -> row_of(key).overdue = 1 }
    :: d_step { row_of(key).state == SENDING && !row_of(key).overdue && trouble; row_of(key).overdue = 1 }

    /* A person. */
    :: d_step { (is_unfinished(key) || job[key].state == FAILED) && trouble; cancel_job(key) }
    :: d_step { (job[key].state == FAILED || job[key].state == CANCELLED) && !job[key].superseded && trouble;
            job[key].state = QUEUED; job[key].attempts = 0; job[key].purged = 0 }           /* queue.retry_job */
    :: d_step { job[key].delivery > 0 && !has_ended(job[key].delivery) && trouble;          /* deliveries.close_deliveries */
            change(job[key].delivery, CLOSED); row_of(key).dropped = 0; is_given_up[key] = 1 }
    :: d_step { may_be_sent_again(key) && trouble;                                          /* deliveries.retry_deliveries */
            change(job[key].delivery, DUE); row_of(key).missing = 0 }
    od
}

/* ---- Forgetting: retention marks what is final, a purge everything; then what is marked is erased, in two steps:
 * looks, and deletes. */

#ifdef EXPIRE_SENT
#define is_final(id_)       (has_ended(id_) || delivery[id_].state == SENT)
#else
#define is_final(id_)       has_ended(id_)
#endif
#define is_settled(key_)    (job[key_].state == 0 || job[key_].superseded || job[key_].state == CANCELLED || \
                             (job[key_].state == DONE && is_final(job[key_].delivery)))
#define is_kept(key_)       (job[key_].delivery > 0 && !job[key_].result_purged)

inline mark_results(key_) {     /* forgetting.mark_results */
    if
    :: job[key_].state != 0 && job[key_].state != CANCELLED -> job[key_].purged = 1; is_published[key_] = 0
    :: else
    fi;
    if
    :: job[key_].delivery > 0 ->
        job[key_].result_purged = 1;
        if
        :: on_the_way(job[key_].delivery) || row_of(key_).state == GAVE_UP ->
            change(job[key_].delivery, CLOSED); row_of(key_).dropped = 0
        :: else
        fi
    :: else
    fi
}

inline purge(key_) {            /* retention.purge_study, of one job */
    if
    :: is_unfinished(key_) || job[key_].state == FAILED -> cancel_job(key_); job[key_].purged = 1
    :: else
    fi;
    mark_results(key_)
}

inline delete_rows(key_) {      /* erasing.erase_results */
    if
#ifdef ERASE_UNCHECKED
    :: is_marked[key_] ->
#else
    :: is_marked[key_] && job[key_].result_purged ->
#endif
        assert(!is_published[key_]);                        /* S8 */
        change(job[key_].delivery, 0);
        row_of(key_).key = 0; row_of(key_).dropped = 0; row_of(key_).report = 0; row_of(key_).sent_since = 0;
        row_of(key_).missing = 0;
        job[key_].delivery = 0; job[key_].result_purged = 0
    :: else
    fi;
    is_marked[key_] = 0
}

active proctype Forgetting() {
end:
    do
    :: d_step { series == QUEUED && is_settled(0) && is_settled(1) && (is_kept(0) || is_kept(1)) -> /* retention.sweep */
            assert(at_pacs[newest] || is_given_up[newest]); /* S9 */
            mark_results(0); mark_results(1) }
    :: d_step { (job[0].state != 0 || job[1].state != 0) && trouble;    /* not of a series just begun */
            purge(0); purge(1); series = INELIGIBLE }
    :: d_step { !is_marked[0] && !is_marked[1] && (job[0].result_purged || job[1].result_purged) ->
            is_marked[0] = job[0].result_purged; is_marked[1] = job[1].result_purged }
    :: d_step { is_marked[0] || is_marked[1] -> delete_rows(0); delete_rows(1) }
    :: d_step { max_attempts > 1 && trouble; max_attempts-- }
    od
}

/* ---- When nothing more can happen, the last set has its answer, and all deliveries have ended. */

#define is_answered(key_)   (job[key_].state == FAILED || job[key_].state == CANCELLED || \
                             (job[key_].state == DONE && (job[key_].purged || job[key_].delivery > 0)))
#define is_over(id_)        (delivery[id_].state == 0 || has_ended(id_) || delivery[id_].state == GAVE_UP)
#define is_at_rest          (is_over(job[0].delivery) && is_over(job[1].delivery) && \
                             !job[0].result_purged && !job[1].result_purged && \
                             (series == INELIGIBLE || (series == QUEUED && newest == wanted && is_answered(newest))))

active proctype Rest() {
    timeout -> assert(is_at_rest)                           /* S10 */
}

init {
    atomic {
        run Selector(0); run Selector(1); run Worker(0); run Worker(1); run Courier(0); run Courier(1);
        run Upkeep(0); run Upkeep(1)
    }
}

ltl ends { <> [] is_at_rest }
