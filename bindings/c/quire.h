/* Quire: a paged, low-bit key/value cache for transformers. The C API.
 *
 * A cache holds the keys and values of many sequences, in pages of 64 tokens folded to a few bits per value,
 * in memory and on disk under hard byte budgets. An engine runs one forward pass as one step:
 *
 *     quire_step_begin(cache, entries, n, NULL, &step);
 *     for each layer:  quire_append(step, layer, &kv);      keys and values of the step's tokens
 *                      quire_attend(step, layer, &q_out);   attention over everything visible
 *                      quire_step_wait(step);               out is written
 *     quire_step_end(step);
 *
 * Rules
 *  - Every options, args and stats struct starts with struct_size (set it to sizeof) and ends with reserved
 * fields (set them to zero); the quire_*_init functions do both and fill in the defaults.
 *  - Every function returns a quire_status. QUIRE_MISS is not a failure: some pages could not be proven
 * right, were dropped, and quire_step_miss names the tokens whose keys and values are to be computed and
 * handed in again.
 *  - After anything but QUIRE_OK, quire_last_error holds one sentence that names the thing and the way out.
 *  - append and attend only enqueue: the memory they point at must stay valid and unchanged until
 * quire_step_wait or quire_step_poll has returned for it. Operations of one step run in the order they were
 * enqueued.
 *  - Nothing is printed, no exception crosses this border, nothing aborts.
 *
 * Thread safety: calls on different caches are independent. Calls on one cache may come from any thread at
 * any time, except that one step is used by one thread at a time, a sequence may be in one open writing step
 * at a time, and quire_close needs every other call to have returned.
 *
 * What a query sees depends on positions alone: a query at position p sees the sinks, its own page and
 * `recent_pages` before it unfolded, and everything older folded; in decode and in prefill alike, however
 * prefill was chunked.
 */
#ifndef QUIRE_H_
#define QUIRE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QUIRE_API __attribute__((visibility("default"), warn_unused_result))
#define QUIRE_API_VOID __attribute__((visibility("default")))
#else
#define QUIRE_API
#define QUIRE_API_VOID
#endif

/* In C++ an enum without a fixed type may not even be looked at when a caller put another value into it. */
#ifdef __cplusplus
#define QUIRE_ENUM : uint32_t
#else
#define QUIRE_ENUM
#endif

#define QUIRE_VERSION_MAJOR 0
#define QUIRE_VERSION_MINOR 1
#define QUIRE_VERSION_PATCH 0

/* ---- status ---- */

typedef enum quire_status QUIRE_ENUM {
  QUIRE_OK = 0,
  QUIRE_MISS = 1,        /* pages are lost; see quire_step_miss */
  QUIRE_NOT_READY = 2,   /* poll: work is still running */
  QUIRE_INVALID = 3,     /* an argument is wrong */
  QUIRE_OVER_BUDGET = 4, /* a byte budget does not allow it */
  QUIRE_IO = 5,          /* a file or disk failed */
  QUIRE_DEADLINE = 6,    /* something took longer than its deadline */
  QUIRE_UNSUPPORTED = 7, /* this build or machine cannot do it */
  QUIRE_NOT_FINITE = 8,  /* NaN or infinity in keys, values or queries */
  QUIRE_DEVICE_LOST = 9,
  QUIRE_INTERNAL = 10 /* a bug in Quire */
} quire_status;

/* A constant string for the code; never NULL. */
QUIRE_API const char* quire_strerror(quire_status status);

/* ---- version and capabilities ---- */

/* "0.1.0"; static storage. */
QUIRE_API const char* quire_version(void);

typedef struct quire_capabilities_info {
  uint32_t struct_size;
  uint32_t io_uring; /* 1 when this kernel lets this process use io_uring */
  uint32_t cuda;     /* 1 when this build has CUDA and finds a device of it */
  const char*
      isa; /* kernels in use: "amx", "avx512", "avxvnni", "avx2", "neon" or "scalar"; QUIRE_ISA forces one */
  const char* codecs; /* names, separated by blanks */
  uint64_t reserved[8];
} quire_capabilities_info;

/* Fails with QUIRE_UNSUPPORTED when QUIRE_ISA names an instruction set that is unknown or that this machine
 * lacks. */
QUIRE_API quire_status quire_capabilities(quire_capabilities_info* out);

/* ---- opening a cache ---- */

typedef struct quire_cache quire_cache;
typedef struct quire_sequence quire_sequence;
typedef struct quire_step quire_step;

/* How one side of a page is folded. Values are stored in files: pinned. */
typedef enum quire_codec QUIRE_ENUM {
  QUIRE_CODEC_DEFAULT = 0, /* rot4; in pre_rope space int4 for keys */
  QUIRE_CODEC_F32 = 1,
  QUIRE_CODEC_BF16 = 2,
  QUIRE_CODEC_INT8 = 8,
  QUIRE_CODEC_INT4 = 9,
  QUIRE_CODEC_INT3 = 10,
  QUIRE_CODEC_INT2 = 11,
  QUIRE_CODEC_ROT4 = 16,
  QUIRE_CODEC_ROT3 = 17,
  QUIRE_CODEC_ROT2 = 18,
  QUIRE_CODEC_TCQ4 = 24,
  QUIRE_CODEC_TCQ3 = 25,
  QUIRE_CODEC_TCQ2 = 26,
  QUIRE_CODEC_TCQ1 = 27,
  QUIRE_CODEC_NUQ4 = 32, /* non-uniform levels: key_levels and value_levels below */
  QUIRE_CODEC_NUQ3 = 33,
  QUIRE_CODEC_NUQ2 = 34,
  QUIRE_CODEC_NUQ4S = 36, /* and one outlier kept apart per token of keys and channel of values */
  QUIRE_CODEC_NUQ3S = 37,
  QUIRE_CODEC_NUQ2S = 38
} quire_codec;

typedef enum quire_key_space QUIRE_ENUM {
  QUIRE_POST_ROPE = 0, /* keys and queries are handed in rotated by the engine */
  QUIRE_PRE_ROPE = 1   /* both are handed in unrotated; Quire rotates (quire_sequence_set_rope is required) */
} quire_key_space;

typedef enum quire_io_engine QUIRE_ENUM {
  QUIRE_IO_AUTO = 0, /* io_uring, or threads where it is refused */
  QUIRE_IO_URING = 1,
  QUIRE_IO_THREADS = 2
} quire_io_engine;

/* What one layer does differently. Pointers are read during quire_open only. */
typedef struct quire_layer_options {
  uint32_t struct_size;
  uint32_t layer;
  quire_codec key_codec; /* QUIRE_CODEC_DEFAULT: the cache's */
  quire_codec value_codec;
  /* [kv_heads][head_dim] or NULL: the diagonal s of the balanced rotation, k' = H diag(s) k. Each within
   * [2^-10, 2^10]; equal within a rotary pair. For models with q_norm and k_norm (Qwen3):
   * s = sqrt(pair rms of q_norm's weight / pair rms of k_norm's weight). */
  const float* key_balance;
  /* Of nuq codecs: 2^bits levels, strictly ascending within -127..127, where -127 and 127 stand for the ends
   * of a group's range; or NULL for the default ones. Pages of other levels are a miss. */
  const int8_t* key_levels;
  const int8_t* value_levels;
  uint64_t reserved[8];
} quire_layer_options;

/* Which pages leave host memory first, and which of those that were read stay in it. */
typedef enum quire_eviction QUIRE_ENUM {
  /* NEWEST, or with digests = 1 FREQUENCY: what bench/README.md measures to be best. */
  QUIRE_EVICT_AUTO = 0,
  QUIRE_EVICT_NEWEST =
      1, /* the newest pages, of idle sequences first; nothing comes back unless there is room */
  QUIRE_EVICT_LRU = 2,    /* least recently attended */
  QUIRE_EVICT_S3FIFO = 3, /* two queues: what is attended once leaves soon */
  QUIRE_EVICT_MASS = 4,   /* as FREQUENCY, weighed by the attention that pages held */
  QUIRE_EVICT_FREQUENCY =
      5 /* least often attended, old uses counting less; keeps a fixed set under scans, too */
} quire_eviction;

/* Where the pages of device_budget lie, and what folds and attends them: quire_options.device. */
enum {
  QUIRE_DEVICE_CPU = 0, /* host memory by another name; default */
  QUIRE_DEVICE_CUDA = 1 /* + i: CUDA device i, counted from 0 */
};

/* Runs fn(arg, i) for every i in [0, n), on any threads, and returns when all have returned. */
typedef void (*quire_parallel_for)(void* context, uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg);

typedef struct quire_options {
  uint32_t struct_size;
  /* Geometry of the model as this process sees it; required. */
  uint32_t layers;
  uint32_t query_heads; /* a multiple of kv_heads, at most 16 times it */
  uint32_t kv_heads;
  uint32_t head_dim; /* 32..256 in steps of 32 */
  /* The page. */
  uint32_t page_tokens;  /* 32, 64 (default) or 128 */
  uint32_t sink_tokens;  /* default 4, at most 32: kept unfolded beside page 0 (lossy codecs only) */
  uint32_t recent_pages; /* default 0: sealed pages that queries also see unfolded */
  quire_codec key_codec;
  quire_codec value_codec;
  quire_key_space key_space;
  const quire_layer_options* layer_options; /* [layer_option_count] or NULL */
  uint32_t layer_option_count;
  /* Hard limits in bytes. host_budget counts everything the cache allocates: pages, tails, tables, staging,
   * work space. quire_open refuses a budget that has no room for one sequence to take a step of
   * max_step_tokens and, inside it, to replay and refill lost pages one at a time, with every other page on
   * disk. Every further sequence whose last page is not full needs its unfolded pages beside that:
   * 8 * layers * (1 + recent_pages) * page_tokens * kv_heads * head_dim bytes. */
  uint64_t device_budget; /* 0: pages are sealed straight into host memory */
  uint64_t host_budget;   /* default 1 GiB */
  uint64_t nvme_budget;   /* 0 (default): no disk tier */
  const char* nvme_path;  /* a directory; the spill file in it has no name and vanishes with the process */
  quire_io_engine io_engine;
  uint32_t io_depth;       /* requests in flight; default 64, at least 8 */
  uint32_t io_deadline_ms; /* default 30000: a slower read makes its pages a miss */
  /* Compute. */
  uint32_t threads;                /* of the cache's own pool; 0: one per core; ignored with parallel_for */
  quire_parallel_for parallel_for; /* the engine's threads, or NULL */
  void* parallel_context;
  uint32_t
      max_step_tokens; /* largest number of tokens of one step; default 512. Sizes staging and work space */
  /* NULL, or a file for a Chrome trace of compute and I/O. What quire_close writes there is kept in memory
   * until then, beside the budgets: at most 56 MiB, the first million events. */
  const char* trace_path;
  /* 1: keep a digest of every page's keys in memory, wherever the page lies, so that attend can choose pages
   * (quire_selection); about 2 * head_dim bytes per page and kv head, counted against host_budget. post_rope
   * only. Default 0. */
  uint32_t digests;
  /* Bytes that may be written to disk per day, by the spill file and the store together, so that it does not
   * wear out; 0 (default): no limit. A bucket of an hour's share refills steadily. Pages that may not go down
   * stay in memory; a step that then finds no room gets QUIRE_OVER_BUDGET. Blocks that may not be written are
   * not published. */
  uint64_t nvme_write_budget_per_day;
  /* NULL, or a file that keeps published blocks for later processes (see quire_prefix); it is made when it
   * does not exist. One cache at a time may have it open: quire_open refuses the second. The file never grows
   * beyond store_budget bytes; a block's bytes are those of its pages, rounded up to 4096, and 4096 or more
   * for its header. */
  const char* store_path;
  uint64_t store_budget;
  /* 128 bits that tell the model apart from every other: of its weights and of all else that keys and values
   * follow from (rope, attention that selects in prefill). Required with store_path: not zero. */
  uint64_t model_fingerprint[2];
  quire_eviction eviction; /* of host memory; sinks and the window of a selection leave last. Default AUTO */
  /* QUIRE_DEVICE_CPU (default), or QUIRE_DEVICE_CUDA + i: pages are then folded and attended on that device
   * while they lie in device_budget, which must not be 0 and also pays for work space there; of pages that
   * have left it see device_link_speed. QUIRE_UNSUPPORTED where this library
   * was built without CUDA or there is no such device; QUIRE_DEVICE_LOST from any call, for good, when a
   * device fails. The tensors of a step may lie on that device, too (quire_place). */
  uint32_t device;
  /* 0 (default), or a zstd level of 1 to 9 for pages on disk, where that saves more than 5 % of a page: those
   * of the codecs of 16 and 32 bits, and some of int8. Costs a core's time per page written and read (see
   * offload/README.md) and work space of host_budget. */
  uint32_t nvme_compression;
  /* NULL, or a file for quire-trace: which pages each step attended. Kept in memory until quire_close, beside
   * the budgets: at most 112 MiB, the first million events. */
  const char* access_trace_path;
  /* With device = QUIRE_DEVICE_CUDA, of pages that have left device_budget and lie in host memory: they are
   * attended by the CPU where they lie, or carried up to be attended on the device, or some of them so and
   * some so, whatever ends first at these speeds (kvcache/placement.h). The link's in bytes per second from
   * host memory; the two others' in bytes of pages per second, times the query rows of a kv head that see
   * them (at least 4). 0 (default): measured, the link once by quire_open. With all three set and no disk
   * tier, where a page is attended, and so every bit of the output, follows from the calls alone. */
  uint64_t device_link_speed;
  uint64_t host_attend_speed;
  uint64_t device_attend_speed;
  uint64_t reserved[4];
} quire_options;

QUIRE_API_VOID void quire_options_init(quire_options* options);
QUIRE_API_VOID void quire_layer_options_init(quire_layer_options* options);

/* *out is NULL on failure; the reason is then quire_last_error(NULL) on this thread. */
QUIRE_API quire_status quire_open(const quire_options* options, quire_cache** out);

/* Ends every step, frees every sequence and all memory, removes the spill file. NULL is allowed. */
QUIRE_API quire_status quire_close(quire_cache* cache);

/* The sentence of the last failed call on this cache (any of its sequences and steps) by this thread; with
 * NULL, of the last failed quire_open. Valid until this thread's next failing call. Never NULL. */
QUIRE_API const char* quire_last_error(const quire_cache* cache);

/* ---- sequences ---- */

QUIRE_API quire_status quire_sequence_create(quire_cache* cache, quire_sequence** out);

/* A new sequence with the same tokens; sealed pages are shared, the tail is copied. */
QUIRE_API quire_status quire_sequence_fork(quire_sequence* sequence, quire_sequence** out);

/* Forgets every token at position >= length. A length inside a sealed page re-opens it: its remaining tokens
 * become the tail as the page decodes them, so their keys and values carry the codec's error from then on.
 * QUIRE_MISS when that page is lost (in all layers nothing has changed then). */
QUIRE_API quire_status quire_sequence_truncate(quire_sequence* sequence, uint64_t length);

/* Tokens whose append has completed in every layer. */
QUIRE_API quire_status quire_sequence_length(const quire_sequence* sequence, uint64_t* out);

QUIRE_API quire_status quire_sequence_free(quire_sequence* sequence);

typedef struct quire_rope {
  uint32_t struct_size;
  uint32_t epoch;         /* version of these values; post_rope pages of another epoch are a miss */
  uint32_t rotary_dim;    /* even, <= head_dim; pairs are (i, i + rotary_dim / 2) */
  float attention_factor; /* multiplies cos and sin (yarn); default 1 */
  const double* inv_freq; /* [rotary_dim / 2], copied */
  uint64_t reserved[4];
} quire_rope;

/* Required before the first append in pre_rope space; in post_rope space only the epoch matters. */
QUIRE_API quire_status quire_sequence_set_rope(quire_sequence* sequence, const quire_rope* rope);

/* ---- steps ---- */

typedef enum quire_dtype QUIRE_ENUM { QUIRE_F32 = 0, QUIRE_BF16 = 1, QUIRE_F16 = 2 } quire_dtype;
typedef enum quire_place QUIRE_ENUM { QUIRE_PLACE_HOST = 0, QUIRE_PLACE_DEVICE = 1 } quire_place;

/* [n tokens][heads][head_dim]. Strides count elements; 0 means dense. The last dimension is always dense.
 * QUIRE_PLACE_DEVICE: memory of the cache's CUDA device, in the calls of a step alone. The tokens that have
 * no full page yet are the host's, so such a tensor crosses the link once per call; its stream is
 * quire_step_options.stream, without which its work must have ended before the call. */
typedef struct quire_tensor {
  void* data;
  quire_dtype dtype;
  quire_place place;
  uint64_t token_stride; /* 0: heads * head_dim */
  uint64_t head_stride;  /* 0: head_dim */
} quire_tensor;

/* One sequence of a ragged batch: its tokens [first, first + count).
 * first == length of the sequence: the tokens are new.
 * first + count <= length: a replay. append gives its queries their own pages unfolded again and encodes anew
 * those pages that are lost; pages that are there are not touched, and the length does not change. A replay
 * starts at the first token of a page, or inside the recorded chunk that does. */
typedef struct quire_step_entry {
  quire_sequence* sequence;
  uint64_t first;
  uint64_t count;
} quire_step_entry;

typedef struct quire_step_options {
  uint32_t struct_size;
  /* NULL, or a stream of the engine's (cudaStream_t) on the cache's CUDA device: work given to it before
   * quire_append or quire_attend of this step has run before Quire reads that call's tensors. What Quire
   * writes is there when quire_step_wait or quire_step_poll has returned, for work given to the stream from
   * then on. */
  void* stream;
  uint64_t reserved[4];
} quire_step_options;

/* Tokens of all entries stand one after another in the tensors of the step. options may be NULL. */
QUIRE_API quire_status quire_step_begin(quire_cache* cache, const quire_step_entry* entries,
                                        size_t entry_count, const quire_step_options* options,
                                        quire_step** out);

typedef struct quire_append_args {
  uint32_t struct_size;
  quire_tensor keys;   /* [n][kv_heads][head_dim] */
  quire_tensor values; /* [n][kv_heads][head_dim] */
  uint64_t reserved[4];
} quire_append_args;

/* Each layer once per step, before that layer's attend. NaN or infinity surface at wait as QUIRE_NOT_FINITE:
 * the layer then holds none of the step's tokens and the step can only be ended. */
QUIRE_API quire_status quire_append(quire_step* step, uint32_t layer, const quire_append_args* args);

/* Which sealed pages a query attends, per kv head. Page 0 (the sinks), the pages of select_window, and
 * unfolded pages are always attended; only what is chosen is read from lower tiers. Needs digests = 1. */
typedef enum quire_selection QUIRE_ENUM {
  QUIRE_SELECT_NONE = 0, /* all pages: exact attention */
  /* The select_pages that matter most besides, or select_share of the sealed pages before the query where
   * that is more: half by estimated mass, half by the highest score that a token in them may have. */
  QUIRE_SELECT_TOP_PAGES = 1,
  QUIRE_SELECT_MASS = 2 /* the fewest pages that hold select_mass of the estimated mass */
} quire_selection;

typedef struct quire_attend_args {
  uint32_t struct_size;
  float softmax_scale;  /* 0: 1 / sqrt(head_dim) */
  quire_tensor queries; /* [n][query_heads][head_dim] */
  quire_tensor out;     /* [n][query_heads][head_dim], f32, bf16 or f16 */
  uint64_t window;      /* 0: all; else a query at p sees positions > p - window */
  float* lse;           /* [n][query_heads] natural log of the sum of exp, or NULL */
  /* Query rows to compute, [n] bytes, nonzero = compute, or NULL = all. The other rows of out are set to
   * zero. A replay that starts inside a page's recorded chunk leaves out the rows whose page it does not
   * hold. */
  const uint8_t* row_mask;
  /* Selective attention. The heads of a GQA group choose together: a page counts what it counts for the head
   * that needs it most. So do, by their mean query, neighbouring tokens of one page in one step; where
   * select_start is not NULL, [n] bytes, a nonzero byte begins a new group of tokens: all ones let every
   * token choose for itself, as it does when tokens come one by one. The choice depends on the tokens that
   * choose together and on the pages before them, never on where pages lie. */
  quire_selection selection;
  uint32_t select_pages;
  float select_mass; /* (0, 1] */
  uint32_t
      select_check; /* 1: attend the other pages as well, apart from the output, to tell what it misses */
  uint64_t select_window; /* tokens before a query whose pages are always attended */
  const uint8_t* select_start;
  /* [n][query_heads] or NULL: the share of the softmax's mass that lies on pages left out; estimated from
   * the digests, exact with select_check. */
  float* missed_mass;
  /* [0, 1]. A fixed number of pages loses what lies in one of many: let it grow with them. */
  float select_share;
  uint32_t zero;
  uint64_t reserved[3];
} quire_attend_args;

/* Query i stands at position entry.first + its index in the entry and sees positions <= its own. Must come
 * before the append of another layer in this step. When wait returns QUIRE_MISS: recompute, refill (or
 * replay), and call attend again; `out` holds nothing to use. */
QUIRE_API quire_status quire_attend(quire_step* step, uint32_t layer, const quire_attend_args* args);

/* Begins to read from disk what quire_attend of the same layer would choose with these queries, which are a
 * guess of its queries: the reads overlap whatever the step does until then. A good guess costs one product:
 * the input of a layer through the next layer's query projection (InfiniGen, arXiv 2406.19707). A wrong one
 * costs reads, never a result. Enqueued like quire_attend; at any time in a step, before the layer's append
 * or after it. Of args the queries, softmax_scale, window, row_mask and the selection count. Does nothing
 * without a selection, with select_check, with pages on a CUDA device, when nothing lies on disk, and beyond
 * the staging memory that is free. */
QUIRE_API quire_status quire_choose_ahead(quire_step* step, uint32_t layer, const quire_attend_args* args);

QUIRE_API_VOID void quire_append_args_init(quire_append_args* args);
QUIRE_API_VOID void quire_attend_args_init(quire_attend_args* args);

/* Blocks until everything enqueued has run; the first failure among it is returned once. */
QUIRE_API quire_status quire_step_wait(quire_step* step);
/* The same without blocking; QUIRE_NOT_READY while work is running. */
QUIRE_API quire_status quire_step_poll(quire_step* step);
/* A descriptor, owned by the step, that is readable whenever no enqueued work is left (for poll and epoll).
 */
QUIRE_API quire_status quire_step_eventfd(quire_step* step, int* out);

typedef struct quire_miss {
  uint32_t struct_size;
  uint32_t layer;
  quire_sequence* sequence;
  uint64_t first; /* [first, first + count): whole pages */
  uint64_t count;
  uint64_t reserved[4];
} quire_miss;

/* The range that the last QUIRE_MISS of this step was about (the first one; there may be more on the next
 * attend). */
QUIRE_API quire_status quire_step_miss(const quire_step* step, quire_miss* out);

/* Waits, publishes the step's tokens and frees the step. A step that failed leaves the sequence as it was
 * before. */
QUIRE_API quire_status quire_step_end(quire_step* step);

/* Hands in the keys and values of whole lost pages; [first, first + count) as quire_step_miss named it.
 * Pages that are not lost are left as they are. Runs at once. In an open step of the sequence it is allowed.
 */
QUIRE_API quire_status quire_refill(quire_sequence* sequence, uint32_t layer, uint64_t first, uint64_t count,
                                    const quire_tensor* keys, const quire_tensor* values);

/* ---- prefixes ---- */

/* Reuse of what was computed for the same first tokens. A block is the pages of page_tokens consecutive
 * tokens in all layers. A sequence's blocks become known when they are published; a new sequence adopts the
 * longest run of known blocks that its tokens begin with, and starts behind it:
 *
 *     quire_prefix_adopt(sequence, &prefix, &n);        the sequence has n tokens, whole blocks; compute the
 * rest
 *     ...
 *     quire_prefix_publish(sequence, &prefix, &stored); tokens: what the sequence holds by now
 *
 * Known are the blocks of live sequences that published or adopted them, whose pages are then shared, and
 * those of the store (store_path), which outlive the process. The pages are the ones that were computed, bit
 * for bit. Blocks are found by hashes chained over everything below, and by comparing everything itself; what
 * a store returns is proven by checksums, and what it cannot prove is not adopted. Adopt leaves at least the
 * last token to compute when its tokens are counted without it. Needs recent_pages = 0. */

#define QUIRE_NOTE_BYTES 64

typedef struct quire_prefix {
  uint32_t struct_size;
  /* Who may see the blocks. Each tenant has a secret of its own, not zero, without which nobody finds them or
   * can tell by timing that they are there. 1: all who leave tenant zero and set this share their blocks. */
  uint32_t shared;
  uint32_t rope_epoch; /* of the sequence's rope */
  uint32_t zero;
  uint64_t tenant[2];
  uint64_t adapter;      /* 0: none */
  const int32_t* tokens; /* [count], from the sequence's first on */
  uint64_t count;
  /* NULL, or [count / page_tokens][QUIRE_NOTE_BYTES]: bytes of the engine's own, kept with each block and
   * given back with it; adopt writes those of adopted blocks. How a page was computed, say. */
  uint8_t* notes;
  uint64_t reserved[4];
} quire_prefix;

QUIRE_API_VOID void quire_prefix_init(quire_prefix* prefix);

/* How many tokens adopt would give now. Reads nothing, so that a damaged store may give fewer. */
QUIRE_API quire_status quire_prefix_match(quire_cache* cache, const quire_prefix* prefix, uint64_t* tokens);

/* Fills an empty sequence; *tokens is a multiple of page_tokens, at most count, and 0 when nothing is known.
 * Blocks that cannot be read or have no room in memory end the run: no failure. */
QUIRE_API quire_status quire_prefix_adopt(quire_sequence* sequence, const quire_prefix* prefix,
                                          uint64_t* tokens);

/* Makes the whole blocks of the first `count` tokens known, which must be the sequence's; with a store, waits
 * until they are kept there. *blocks (or NULL) is how many it did not have. A store that is full gives up
 * blocks that were used longest ago, and keeps the beginning of a prefix that it cannot hold whole. A lost
 * page, too, ends what is kept, and so does nvme_write_budget_per_day: no failure. QUIRE_IO, QUIRE_DEADLINE:
 * the store failed or did not answer; what it does not have is not visible in it. */
QUIRE_API quire_status quire_prefix_publish(quire_sequence* sequence, const quire_prefix* prefix,
                                            uint64_t* blocks);

/* ---- tiers ---- */

/* Copies every sealed page that has no lower copy to the disk tier and waits for it. */
QUIRE_API quire_status quire_flush(quire_cache* cache);

/* Asks for pages of [first, first + count) of a layer to be brought up; returns at once, does what room
 * allows. Several ranges and layers add up; what the next steps attend first should be asked for first. */
QUIRE_API quire_status quire_prefetch(quire_sequence* sequence, uint32_t layer, uint64_t first,
                                      uint64_t count);

typedef struct quire_stats {
  uint32_t struct_size;
  const char* io_engine; /* "io_uring", "threads" or "none"; static storage */
  uint64_t tokens;       /* over all sequences, shared pages once */
  uint64_t values;       /* number of K and V values those are */
  /* Bytes held. */
  uint64_t device_bytes;
  uint64_t host_bytes;      /* everything counted against host_budget */
  uint64_t host_page_bytes; /* of it: sealed pages */
  uint64_t host_tail_bytes;
  uint64_t host_table_bytes;
  uint64_t host_staging_bytes;                   /* staging and work space */
  uint64_t nvme_bytes;                           /* pages on disk */
  uint64_t nvme_file_bytes;                      /* space of the spill file in use */
  uint64_t device_pages, host_pages, nvme_pages; /* copies; one page may have several */
  uint64_t pages;                                /* sealed and not lost */
  double effective_bits; /* bits held per value: every page once, wherever it is, + tails, sinks, tables */
  double page_bits;      /* bits of the sealed pages, all metadata counted, per value */
  /* Since quire_open. */
  uint64_t page_hits, page_misses;    /* pages attended in memory; pages that had to be read */
  uint64_t pages_lost;                /* pages that became a QUIRE_MISS */
  uint64_t read_bytes, written_bytes; /* of the disk tier */
  uint64_t demoted_pages, dropped_pages, promoted_pages;
  double encode_seconds, attend_seconds; /* busy time over all threads */
  double io_wait_seconds;                /* time that attention stood still for reads */
  double io_seconds;                     /* time with at least one request in flight */
  /* Of selective attention: pages, counted per kv head and group of tokens that choose together. */
  uint64_t pages_chosen, pages_skipped;
  uint64_t selected_rows; /* (token, query head) pairs that attended selectively */
  double missed_mass;     /* their mean share of mass on pages left out: as quire_attend_args.missed_mass */
  double select_seconds;  /* busy time of choosing, over all threads */
  uint64_t demoted_bytes; /* of demoted_pages: written_bytes / demoted_bytes is the write amplification */
  /* Of prefix reuse: tokens adopted from live sequences and from the store, and asked for. */
  uint64_t prefix_shared_tokens, prefix_loaded_tokens, prefix_asked_tokens;
  /* Of the store: blocks held and room for; found, and refused, by the scan of quire_open; put, evicted, and
   * dropped because they did not prove right. */
  uint64_t store_blocks, store_capacity_blocks;
  uint64_t store_recovered_blocks, store_refused_blocks;
  uint64_t store_stored_blocks, store_evicted_blocks, store_damaged_blocks;
  /* Of nvme_compression: demoted_bytes as they lie on disk; pages that lie there compressed; bytes of pages
   * that it was tried on, and what they would take: 1 - packed_bytes / tried_bytes is what the codec could
   * gain. */
  uint64_t stored_bytes, compressed_pages, tried_bytes, packed_bytes;
  /* Reads of a page from disk for some of its kv heads alone: those that chose it, or were guessed to. */
  uint64_t partial_pages;
  /* Pages attended, once per call of quire_attend: by the CPU where they lay, and on a CUDA device; of these
   * the ones that were carried up for it. And their bytes. */
  uint64_t host_attended_pages, device_attended_pages, carried_pages;
  uint64_t host_attended_bytes, device_attended_bytes, carried_bytes;
  /* Of quire_choose_ahead: sections (a kv head's part of a page) whose reads it started, and those of them
   * that were attended. */
  uint64_t foreseen_sections, foreseen_sections_used;
  uint64_t reserved[2];
} quire_stats;

QUIRE_API quire_status quire_cache_stats(quire_cache* cache, quire_stats* out);

/* The counters of quire_stats, and histograms of how long requests to each tier take, as Prometheus text
 * (version 0.0.4). Writes at most `size` bytes and a 0 behind them into `text`; *length is how long the text
 * is without the 0. QUIRE_INVALID when it does not fit, *length then tells the size to come back with; text
 * may be NULL when size is 0. */
QUIRE_API quire_status quire_cache_prometheus(quire_cache* cache, char* text, uint64_t size,
                                              uint64_t* length);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* QUIRE_H_ */
