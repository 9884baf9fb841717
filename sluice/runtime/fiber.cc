// Invariants:
// F1. A fiber runs on the thread that resumes it, between that resume() and the next yield() or its end. `running` is
//     the innermost one; `State::outer` chains to the fiber (or nullptr for the thread's own stack) that resumed it.
//     After yield_from() `State::innermost` is the one in which the fiber goes on.
// F2. A stack is held from the first resume() to the end of the body (or abandon()), never longer.
// F3. The thread's exception state (`__cxa_get_globals()`) belongs to whoever runs: resume() puts the fiber's in place
//     and takes it out again, so yield() needs to do nothing about it.
//
// The switch is 30 instructions of assembly on x86-64 (20 ns for a resume and a yield together, measured); other
// processors take ucontext, which makes a system call for the signal mask each time.
#include "sluice/runtime/fiber.h"

#include <cxxabi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"

#if defined(__SANITIZE_ADDRESS__)
#define SLUICE_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLUICE_FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SLUICE_FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLUICE_FIBER_TSAN 1
#endif
#endif
#ifdef SLUICE_FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#ifdef SLUICE_FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// SLUICE_FIBER_UCONTEXT may be defined to try the portable switch on x86-64.
#if !defined(__x86_64__) && !defined(SLUICE_FIBER_UCONTEXT)
#define SLUICE_FIBER_UCONTEXT 1
#endif
#ifdef SLUICE_FIBER_UCONTEXT
#include <ucontext.h>
#else
#include <xmmintrin.h>

extern "C" void sluice_fiber_switch(void** save, void* load);
#endif

namespace sluice::detail {
namespace {

/// A mapping whose lowest page is a guard: an overflow is a fault and not a corruption.
struct Stack {
  char* mapping = nullptr;
  std::size_t mapped_bytes = 0;
  char* bottom = nullptr;
  std::size_t bytes = 0;

  explicit operator bool() const { return mapping != nullptr; }
};

std::size_t page_bytes() {
  static const std::size_t bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

Stack map_stack(std::size_t bytes) {
  const std::size_t guard = page_bytes();
  Stack stack;
  stack.mapped_bytes = bytes + guard;
  void* mapping = ::mmap(nullptr, stack.mapped_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  stack.mapping = static_cast<char*>(mapping);
  stack.bottom = stack.mapping + guard;
  stack.bytes = bytes;
  if (::mprotect(mapping, guard, PROT_NONE) != 0) {
    ::munmap(mapping, stack.mapped_bytes);
    throw std::bad_alloc();
  }
  return stack;
}

/// Stacks that this thread has used and may use again. More than a simulation of a whole cluster needs at a time.
constexpr std::size_t pooled_stacks_max = 256;

class StackPool {
 public:
  ~StackPool() {
    for (const Stack& stack : free_) ::munmap(stack.mapping, stack.mapped_bytes);
    gone = true;
  }

  Stack take(std::size_t bytes) {
    for (std::size_t i = free_.size(); i-- > 0;) {
      if (free_[i].bytes != bytes) continue;
      Stack stack = free_[i];
      free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
      return stack;
    }
    return map_stack(bytes);
  }

  void give_back(const Stack& stack) {
    if (free_.size() < pooled_stacks_max) {
      free_.push_back(stack);
    } else {
      ::munmap(stack.mapping, stack.mapped_bytes);
    }
  }

  /// A fiber in static storage may end its life after the pool of the main thread.
  static thread_local bool gone;

 private:
  std::vector<Stack> free_;
};

thread_local bool StackPool::gone = false;
thread_local StackPool stack_pool;

/// What `__cxa_get_globals()` points to, as the Itanium C++ ABI fixes it (section 2.2.2).
struct ExceptionState {
  void* caught_exceptions = nullptr;
  unsigned uncaught_exceptions = 0;
};

ExceptionState& exception_state() { return *reinterpret_cast<ExceptionState*>(abi::__cxa_get_globals()); }

thread_local Fiber* running = nullptr;
thread_local void* local_slot = nullptr;

#ifdef SLUICE_FIBER_UCONTEXT

using Context = ucontext_t;

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  ::getcontext(&context);
  context.uc_stack.ss_sp = stack.bottom;
  context.uc_stack.ss_size = stack.bytes;
  context.uc_link = nullptr;
  ::makecontext(&context, entry, 0);
}

inline void switch_context(Context& from, Context& to) { ::swapcontext(&from, &to); }

#else

/// A stack pointer; all else lies on the stack it points to, as sluice_fiber_switch pushed it.
struct Context {
  void* stack_pointer = nullptr;
};

// System V ABI: rbx, rbp, r12-r15 and the control words of SSE and x87 belong to the caller. The control words are
// loaded only when they differ (the sticky flags of mxcsr, 0x3f, do not count): a change of mxcsr costs 30 ns. The last
// jump is not a `ret`, which would be predicted to go back where the call came from (16 ns more).
asm(R"(
.pushsection .text
.p2align 4
.hidden sluice_fiber_switch
.globl sluice_fiber_switch
.type sluice_fiber_switch, @function
sluice_fiber_switch:
  .cfi_startproc
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset rbp, 0
  pushq %rbx
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset rbx, 0
  pushq %r12
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset r12, 0
  pushq %r13
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset r13, 0
  pushq %r14
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset r14, 0
  pushq %r15
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset r15, 0
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movl (%rsp), %eax
  movzwl 4(%rsp), %ecx
  movq %rsi, %rsp
  xorl (%rsp), %eax
  testl $0xffc0, %eax
  jnz 2f
1:
  cmpw 4(%rsp), %cx
  jne 3f
4:
  addq $8, %rsp
  .cfi_adjust_cfa_offset -8
  popq %r15
  .cfi_adjust_cfa_offset -8
  .cfi_restore r15
  popq %r14
  .cfi_adjust_cfa_offset -8
  .cfi_restore r14
  popq %r13
  .cfi_adjust_cfa_offset -8
  .cfi_restore r13
  popq %r12
  .cfi_adjust_cfa_offset -8
  .cfi_restore r12
  popq %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_restore rbx
  popq %rbp
  .cfi_adjust_cfa_offset -8
  .cfi_restore rbp
  popq %rcx
  .cfi_adjust_cfa_offset -8
  .cfi_register rip, rcx
  jmp *%rcx
  .cfi_restore rip
  .cfi_adjust_cfa_offset 64
  .cfi_rel_offset rbp, 48
  .cfi_rel_offset rbx, 40
  .cfi_rel_offset r12, 32
  .cfi_rel_offset r13, 24
  .cfi_rel_offset r14, 16
  .cfi_rel_offset r15, 8
2:
  ldmxcsr (%rsp)
  jmp 1b
3:
  fldcw 4(%rsp)
  jmp 4b
  .cfi_endproc
.size sluice_fiber_switch, .-sluice_fiber_switch
.popsection
)");

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  // From the top: the return address of `entry` (0 ends every backtrace), where the switch jumps to, six
  // registers, the control words. The first leaves the stack aligned as a call would.
  auto* top = reinterpret_cast<std::uintptr_t*>(stack.bottom + stack.bytes);
  std::uintptr_t* frame = top - 9;
  std::memset(frame, 0, 9 * sizeof(*frame));
  frame[7] = reinterpret_cast<std::uintptr_t>(entry);
  std::uint16_t x87_control = 0;
  asm("fnstcw %0" : "=m"(x87_control));
  frame[0] = _mm_getcsr() | static_cast<std::uintptr_t>(x87_control) << 32;
  context.stack_pointer = frame;
}

inline void switch_context(Context& from, Context& to) { sluice_fiber_switch(&from.stack_pointer, to.stack_pointer); }

#endif

}  // namespace

struct Fiber::State {
  enum class Phase { fresh, suspended, running, ended };

  Phase phase = Phase::fresh;
  std::function<void()> body;
  std::size_t stack_bytes = 0;
  Stack stack;
  Context inside;   // where the fiber goes on
  Context outside;  // where the resume() that runs it goes on
  Fiber* outer = nullptr;
  Fiber* innermost = nullptr;
  ExceptionState exceptions;
  void* local = nullptr;
  std::exception_ptr error;
#ifdef SLUICE_FIBER_ASAN
  void* fake_stack = nullptr;
  const void* outer_bottom = nullptr;
  std::size_t outer_bytes = 0;
#endif
#ifdef SLUICE_FIBER_TSAN
  void* tsan_fiber = nullptr;
  void* outer_tsan_fiber = nullptr;
#endif

  void take_stack();
  void release_stack();
  void forget_stack();
  void switch_in();
  void switch_out();
  void arrived();
  static void main();
};

void Fiber::State::take_stack() {
  stack = StackPool::gone ? map_stack(stack_bytes) : stack_pool.take(stack_bytes);
  prepare(inside, stack, &State::main);
#ifdef SLUICE_FIBER_ASAN
  // What a fiber that waits holds is reachable.
  __lsan_register_root_region(stack.bottom, stack.bytes);
#endif
#ifdef SLUICE_FIBER_TSAN
  tsan_fiber = __tsan_create_fiber(0);
#endif
}

void Fiber::State::release_stack() {
#ifdef SLUICE_FIBER_TSAN
  __tsan_destroy_fiber(tsan_fiber);
#endif
#ifdef SLUICE_FIBER_ASAN
  __lsan_unregister_root_region(stack.bottom, stack.bytes);
  // The frames left behind never returned, so nobody took their red zones away.
  __asan_unpoison_memory_region(stack.bottom, stack.bytes);
#endif
  if (StackPool::gone) {
    ::munmap(stack.mapping, stack.mapped_bytes);
  } else {
    stack_pool.give_back(stack);
  }
  stack = Stack{};
}

void Fiber::State::forget_stack() {
#ifdef SLUICE_FIBER_ASAN
  // Kept mapped for the leak checker: what it points to is lost on purpose.
  stack = Stack{};
#else
  release_stack();
#endif
}

// Runs on the stack of the one who resumes.
inline void Fiber::State::switch_in() {
  ExceptionState& of_thread = exception_state();
  const ExceptionState of_caller = of_thread;
  of_thread = exceptions;
  std::swap(local_slot, local);
#ifdef SLUICE_FIBER_ASAN
  void* caller_fake_stack = nullptr;
  const Stack& target = innermost->state_->stack;
  __sanitizer_start_switch_fiber(&caller_fake_stack, target.bottom, target.bytes);
#endif
#ifdef SLUICE_FIBER_TSAN
  outer_tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(innermost->state_->tsan_fiber, 0);
#endif
  switch_context(outside, inside);
#ifdef SLUICE_FIBER_ASAN
  __sanitizer_finish_switch_fiber(caller_fake_stack, nullptr, nullptr);
#endif
  std::swap(local_slot, local);
  exceptions = of_thread;
  of_thread = of_caller;
}

// Runs on the stack of the fiber or of one inside it.
inline void Fiber::State::switch_out() {
#ifdef SLUICE_FIBER_ASAN
  __sanitizer_start_switch_fiber(phase == Phase::ended ? nullptr : &fake_stack, outer_bottom, outer_bytes);
#endif
#ifdef SLUICE_FIBER_TSAN
  __tsan_switch_to_fiber(outer_tsan_fiber, 0);
#endif
  switch_context(inside, outside);
  arrived();
}

// The first thing done after a switch_in.
inline void Fiber::State::arrived() {
#ifdef SLUICE_FIBER_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, &outer_bottom, &outer_bytes);
#endif
}

void Fiber::State::main() {
  State& state = *running->state_;
  state.arrived();
  try {
    // What the body has captured ends with it, while destructors may still yield.
    const std::function<void()> body = std::exchange(state.body, nullptr);
    body();
  } catch (...) {
    state.error = std::current_exception();
  }
  state.phase = Phase::ended;
  state.switch_out();
  SLUICE_ASSERT(!"an ended fiber was resumed");
}

Fiber::Fiber(std::function<void()> body, std::size_t stack_bytes) : state_(std::make_unique<State>()) {
  SLUICE_ASSERT(body != nullptr);
  const std::size_t page = page_bytes();
  // A sanitizer's frames and the unwinder take some 10 kB by themselves.
  constexpr std::size_t stack_bytes_min = 16 << 10;
  state_->stack_bytes = (std::max(stack_bytes, stack_bytes_min) + page - 1) / page * page;
  state_->body = std::move(body);
}

Fiber::~Fiber() { SLUICE_ASSERT(state_->phase == State::Phase::fresh || state_->phase == State::Phase::ended); }

void Fiber::resume() {
  State& state = *state_;
  SLUICE_ASSERT(state.phase == State::Phase::fresh || state.phase == State::Phase::suspended);
  if (state.phase == State::Phase::fresh) {
    state.take_stack();
    state.innermost = this;
  }
  state.phase = State::Phase::running;
  state.outer = std::exchange(running, state.innermost);
  state.switch_in();
  running = state.outer;
  if (state.phase == State::Phase::running) {
    state.phase = State::Phase::suspended;
    return;
  }
  state.release_stack();
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

bool Fiber::done() const { return state_->phase == State::Phase::ended; }

void Fiber::yield() {
  SLUICE_ASSERT(running != nullptr);
  yield_from(*running);
}

void Fiber::yield_from(Fiber& fiber) {
  State& state = *fiber.state_;
  SLUICE_ASSERT(running != nullptr && state.phase == State::Phase::running);
  state.innermost = running;
  state.switch_out();
}

Fiber* Fiber::current() { return running; }

void*& Fiber::local() { return local_slot; }

void Fiber::abandon() {
  State& state = *state_;
  SLUICE_ASSERT(state.phase != State::Phase::running);
  if (state.phase == State::Phase::suspended) {
    for (Fiber* fiber = state.innermost; fiber != this;) {
      State& inner = *fiber->state_;
      fiber = inner.outer;
      inner.forget_stack();
      inner.phase = State::Phase::ended;
    }
    state.forget_stack();
  }
  state.body = nullptr;
  state.phase = State::Phase::ended;
}

}  // namespace sluice::detail
