// Errors: one table of codes, one exception type.
//
//     throw sluice::Error(sluice::Code::no_output, {.where = std::source_location::current()});
//
// Three kinds of failure exist. What a caller branches on each time (end of file, not found) is a return value. A
// failure that ends a call, a task, a batch or a start is a `sluice::Error`. A broken invariant of our own ends the
// process (`SLUICE_ASSERT`). Each code is described in docs/errors.md; numbers are never reused.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sluice {

// number, name, sentence (what happened), remedy (how to mend it)
#define SLUICE_ERRORS(X)                                                                                               \
  /* 1xx: the program */                                                                                               \
  X(101, no_output, "the stream has no output operation, so there is nothing to run",                                  \
    "add an output such as foreach_rdd, print or save_as_text_files before start()")                                   \
  X(102, no_checkpoint_directory, "a stateful operator needs a checkpoint directory",                                  \
    "set one: StreamingContext{ctx, {.checkpoint = \"DIR\"}} or --sluice.checkpoint=DIR")                              \
  X(103, context_stopped, "this streaming context has already been stopped",                                           \
    "make a new StreamingContext; a stopped one cannot be used again")                                                 \
  X(104, graph_is_fixed, "the graph cannot be changed after start()",                                                  \
    "declare inputs, operators and outputs before start()")                                                            \
  X(105, too_few_cores, "every core would be taken by a receiver and no task could ever run",                          \
    "give the master more cores than there are receivers, for example --sluice.master=local[4]")                       \
  X(106, stop_in_listener, "stop() was called from a listener's callback, which the stop would wait for",              \
    "call stop() from another thread, or request_stop() which does not wait")                                          \
  X(107, bad_interval, "an interval does not fit the stream it is used on",                                            \
    "make window lengths and slides multiples of the interval of the stream they are applied to")                      \
  X(108, already_active, "another started context of this process uses the same checkpoint directory",                 \
    "stop the other context first, or give this one a directory of its own")                                           \
  X(109, bad_argument, "an argument is out of its range", "see the documentation of the call")                         \
  X(110, captures_pointer, "a function that runs in tasks has captured a pointer into this process",                   \
    "capture plain values, pass values with a codec by with(...), or make the object where it is used with "           \
    "per_process<T>")                                                                                                  \
  X(111, other_context, "operands belong to different contexts", "combine only streams and RDDs of one context")       \
  X(112, context_not_started, "the context has not been started", "call start() first")                                \
  X(113, name_not_unique, "an operator's identity is not unique in this graph",                                        \
    "give the operator a name of its own with .name(\"...\")")                                                         \
  X(114, bad_setting, "a setting cannot be understood", "see the list of settings in docs/settings.md")                \
  X(115, operator_not_named, "an operator whose data is kept in the checkpoint directory has no name of its own",      \
    "give it one that will stay, with .name(\"...\")")                                                                 \
  X(116, state_without_operator, "the checkpoint holds state of an operator that this program does not have",          \
    "name the operator as before, give its new name the old one with .alias(\"...\"), or drop the state on purpose "   \
    "with --sluice.drop-state=NAME")                                                                                   \
  X(117, state_does_not_fit, "the state in the checkpoint does not fit the operator of that name",                     \
    "keep the types of key and state (fields may be added at the end), or drop the state on purpose with "             \
    "--sluice.drop-state=NAME")                                                                                        \
  X(118, other_checkpoint, "the checkpoint directory was made with a setting that cannot change afterwards",           \
    "use the setting it names, or another directory")                                                                  \
  X(119, other_code, "batches that an earlier build of the program began are not finished",                            \
    "start that build once more to finish them, or accept that this one does with "                                    \
    "--sluice.accept-replay-with-new-code=true")                                                                       \
  X(120, no_state_backend, "state cannot be kept where the program says",                                              \
    "see why; without .state(...) it is kept in memory")                                                               \
  /* 2xx: running */                                                                                                   \
  X(201, task_failed, "a task failed as often as it may be tried", "see why below; the position names the record")     \
  X(202, output_failed, "an output operation failed", "mend the cause below and start the program again")              \
  X(203, empty_rdd, "the RDD has no record", "check is_empty() first, or use fold() with a neutral value")             \
  X(204, state_is_gone, "the state of an earlier batch was asked for after the batch ended",                           \
    "cache() the RDD in the batch it belongs to")                                                                      \
  X(205, task_cancelled, "the work was cancelled because the context is being stopped", "nothing to mend")             \
  X(206, out_of_memory_budget, "a block does not fit the memory budget and may not be written to disk",                \
    "raise --sluice.memory, or choose a storage level with disk")                                                      \
  X(207, receiver_failed, "a receiver reported an error", "see why below; the receiver is started again")              \
  X(208, stop_timed_out, "a graceful stop did not finish in time", "raise StopOptions::timeout")                       \
  X(209, fenced, "another driver has taken over the checkpoint directory",                                             \
    "nothing to mend if it was started on purpose; see to it that only one runs")                                      \
  X(210, batch_not_recorded, "the batch to be replayed is not recorded in the checkpoint directory",                   \
    "name one that `sluice checkpoint ls` lists, and keep more of them with --sluice.keep-batches=N")                  \
  X(211, state_lost, "state is lost with the executors that had it",                                                   \
    "start the program again: it goes on from its checkpoint")                                                         \
  X(212, no_executors, "no executor is left", "see the executors' logs for why they ended")                            \
  /* 3xx: bytes from disk, wire or closures */                                                                         \
  X(301, corrupt_data, "bytes read from disk or wire are damaged", "restore the file or remove it; see why")           \
  X(302, truncated_data, "bytes read from disk or wire end too early", "restore the file or remove it; see why")       \
  X(303, other_version, "data was written by another version of the format", "read it with the program it names")      \
  X(304, other_build, "a task was encoded by another build of the program",                                            \
    "run the same binary in the driver and in all executors")                                                          \
  X(305, over_limit, "a size is over its limit", "see the limit in the message and the setting that raises it")        \
  X(306, no_readable_checkpoint, "none of the checkpoints in the directory can be read",                               \
    "see why, and `sluice checkpoint verify`; restore the directory from a copy, or start with an empty one")          \
  /* 4xx: outside world */                                                                                             \
  X(401, io_failed, "an operation on a file failed", "see why below")                                                  \
  X(402, network_failed, "an operation on the network failed", "see why below")                                        \
  X(403, not_listening_address, "refusing to listen beyond loopback without a token and TLS",                          \
    "listen on 127.0.0.1, or configure a token and TLS (`sluice certs` makes the certificates)")                       \
  X(410, not_a_directory, "the path of a file stream is not a directory", "create the directory before start()")       \
  X(411, not_readable, "a file or directory cannot be read", "check that it exists and its permissions")               \
  X(412, file_changed, "a file has changed since it was chosen for a batch",                                           \
    "move finished files into the directory; never rewrite a file that lies in it")                                    \
  X(413, process_failed, "a child process could not be started or ended with an error", "see why below")               \
  X(414, database_failed, "a database could not be reached or refused a statement", "see why below")                   \
  X(415, bad_certificate, "a certificate or its key cannot be used",                                                   \
    "see why below; `sluice certs DIR` makes certificates, and `--renew` new ones of the same authority")

/// What went wrong. The number is printed as `SLU-nnn` and explained in docs/errors.md.
enum class Code : int {
#define SLUICE_ERROR_CODE(number, name, sentence, remedy) name = number,
  SLUICE_ERRORS(SLUICE_ERROR_CODE)
#undef SLUICE_ERROR_CODE
};

/// One row of the table of errors.
struct ErrorInfo {
  Code code;
  std::string_view name;
  std::string_view sentence;
  std::string_view remedy;
};

/// The row of `code`. Cost: a linear search; errors are rare.
const ErrorInfo& error_info(Code code);

/// A place in the user's program. Cheap to copy; the file's name must live for ever (it is a literal, or interned).
class Place {
 public:
  constexpr Place() = default;
  constexpr Place(std::source_location where) : file_(where.file_name()), line_(where.line()) {}
  constexpr Place(const char* file, unsigned line) : file_(file), line_(line) {}
  constexpr const char* file_name() const { return file_; }
  /// 0 when the place is not known.
  constexpr unsigned line() const { return line_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0;
};

/// The parts of an error that depend on the occasion. Everything but `why` may be left out.
struct ErrorDetails {
  /// The reason, in words; for a nested failure its text.
  std::string why{};
  /// The operator, source or output concerned, as the user named it.
  std::string operation{};
  /// The user's file and line that declared it. A default-made place (line 0) is not printed.
  Place where{};
};

/// A failure with its code, what, operator, place, why and remedy. `what()` is the whole text, on several lines.
class Error : public std::runtime_error {
 public:
  Error(Code code, ErrorDetails details);

  Code code() const { return code_; }
  const ErrorDetails& details() const { return details_; }

 private:
  Code code_;
  ErrorDetails details_;
};

/// Text of the exception being handled: `what()` of a std::exception, else "unknown exception". Call inside `catch`.
std::string current_exception_text();

namespace detail {
[[noreturn]] void assert_failed(const char* condition, std::source_location where);
}  // namespace detail

// Always on: used once per batch or chunk, never per record. A broken invariant of our own ends the process.
#define SLUICE_ASSERT(condition)                                                                                       \
  ((condition) ? static_cast<void>(0) : ::sluice::detail::assert_failed(#condition, std::source_location::current()))

}  // namespace sluice
