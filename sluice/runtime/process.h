// This process and its children: image, memory map, environment, signals, children.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/runtime.h"
#include "sluice/runtime/transport.h"

namespace sluice {

/// A loaded module (the program or a shared library) that holds code.
struct Image {
  std::uintptr_t base = 0;
  std::uintptr_t end = 0;
  /// First 8 bytes of the linker's build id; of the path and size when it has none.
  std::uint64_t build_id = 0;
  std::string path;
};

/// The image that contains `address`, or nullptr. Loaded images are found at first use and again when one is missing.
const Image* image_of(const void* address);
/// The image with that build id, or nullptr.
const Image* image_with_build_id(std::uint64_t build_id);

/// What an address of this process belongs to.
enum class MemoryKind { unmapped, image, heap, stack, other };
/// Looks `address` up in this process's memory map. Sanitizer shadow counts as unmapped; anonymous writable mappings
/// (large allocations, thread stacks) count as heap. Cost: a binary search in a cached map; when the address is not in
/// it the map is read again.
MemoryKind memory_kind(std::uintptr_t address);

/// The path of the program that this process runs, as it was when it was started.
std::string program_path();
/// The environment variable, or nullopt.
std::optional<std::string> environment(const std::string& name);
int process_id();
/// What this machine calls itself.
std::string host_name();
/// Cores this process may run on.
std::size_t core_count();
/// CPU time this process has used so far, user and system, all threads.
Duration process_cpu_time();
/// Largest resident set so far, and the present one, in bytes.
std::uint64_t resident_bytes_peak();
std::uint64_t resident_bytes();
/// Columns and rows of the terminal on standard output; nullopt when it is no terminal.
std::optional<std::pair<int, int>> terminal_size();

/// Standard input as a byte stream that can only be read. Deadlines are by `clock`, which must outlive it (one turned
/// by hand is looked at once a second); `close` wakes a reader and leaves the descriptor itself open. One reader a
/// process. Errors: SLU-402.
std::unique_ptr<Connection> standard_input(const Clock& clock = system_runtime().clock());

/// A child process, connected by a socket pair. Destroying one that was not waited for kills it (SIGKILL) and waits: no
/// child outlives its owner.
class ChildProcess {
 public:
  virtual ~ChildProcess() = default;
  /// The parent's end of the socket pair.
  virtual Connection& connection() = 0;
  virtual int pid() const = 0;
  /// Waits for the end; exit status, or 128 + signal.
  virtual int wait() = 0;
  virtual void kill(int signal) = 0;
};

/// Starts this program's own binary with `arguments`; the child finds its end of the socket pair as descriptor 3. It
/// prints where this process does, or, with `on_line`, into two pipes: `on_line` gets each line of both, without its
/// end, on a thread of the child's; when `wait` returns it has had all that was printed by then, the last words of a
/// child that was killed included. A child waits while its pipes are full. `on_line` must not throw.
/// Errors: SLU-413.
std::unique_ptr<ChildProcess> spawn_self(const std::vector<std::string>& arguments,
                                         std::function<void(std::string_view line)> on_line = {});
/// Starts another program, found as a shell finds it. Its standard input and output are its end of the socket pair, its
/// standard error is that of this process. nullptr when there is no such program. Errors: SLU-413.
std::unique_ptr<ChildProcess> spawn_program(const std::string& program, const std::vector<std::string>& arguments);
/// In a child made by `spawn_self`: its end of the socket pair. May be called once. SIGPIPE is ignored from now on: a
/// child that prints to a parent that has ended must live to put things in order. Errors: SLU-413 when descriptor 3 is
/// no socket.
std::unique_ptr<Connection> connection_to_parent();

/// Starts this process over: the same binary (also when its file was replaced since) with the arguments that it was
/// started with, under the same process id. Errors: SLU-413.
[[noreturn]] void restart_process();

/// This process goes on as another program, found as a shell finds it, under the same process id. Errors: SLU-413, also
/// when there is none.
[[noreturn]] void become_program(const std::string& program, const std::vector<std::string>& arguments);

/// Turns SIGINT and SIGTERM into calls of `on_signal(signal number)` on a thread of its own while it lives. The second
/// signal ends the process at once with status 128 + signal, whether or not `on_signal` has returned: a graceful stop
/// goes on after it. One watch at a time; `on_signal` must not throw.
class SignalWatch {
 public:
  explicit SignalWatch(std::function<void(int)> on_signal);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Tells the process's supervisor its state, such as "READY=1", by systemd's protocol: a datagram to the socket that
/// the environment variable NOTIFY_SOCKET names (sd_notify(3)). False when there is none. Errors: SLU-402.
bool notify_supervisor(std::string_view state);

}  // namespace sluice
