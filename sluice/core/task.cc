#include "sluice/core/task.h"

#include "sluice/runtime/fiber.h"

namespace sluice::detail {

TaskContext::TaskContext(TaskEnvironment& environment, const TaskId& id, const std::atomic<bool>* cancelled)
    : environment_(environment), id_(id), cancelled_(cancelled), outer_(std::exchange(Fiber::local(), this)) {}

TaskContext::~TaskContext() { Fiber::local() = outer_; }

TaskContext* TaskContext::current() { return static_cast<TaskContext*>(Fiber::local()); }

void TaskContext::throw_cancelled() { throw Error(Code::task_cancelled, {}); }

bool state_has_batch(const OpenAt& at, std::int64_t version) {
  // Also when the state still stands at that batch: the next one may be changing it at this moment (S1).
  if (at.task.id().batch != at.batch || version > at.batch) {
    throw Error(Code::state_is_gone, {.operation = at.info.name, .where = at.info.where});
  }
  return version == at.batch;
}

void rethrow_at_record(const OpenAt& at, std::uint64_t record) {
  try {
    throw;
  } catch (const Error& error) {
    // Thrown further down the pipe: the innermost operator knows best. Also cancellations.
    if (error.code() == Code::task_cancelled || !error.details().operation.empty()) throw;
    throw Error(error.code(), {.why = "record " + std::to_string(record) + " of partition " +
                                      std::to_string(at.partition) + ": " + error.details().why,
                               .operation = at.info.name,
                               .where = at.info.where});
  } catch (...) {
    throw Error(Code::task_failed, {.why = "record " + std::to_string(record) + " of partition " +
                                           std::to_string(at.partition) + ": " + current_exception_text(),
                                    .operation = at.info.name,
                                    .where = at.info.where});
  }
}

void fail_at(const OperatorInfo& info, Code code, std::string why) {
  throw Error(code, {.why = std::move(why), .operation = info.name, .where = info.where});
}

void rethrow_at(const OperatorInfo& info) {
  try {
    throw;
  } catch (const Error& error) {
    if (error.code() == Code::task_cancelled || !error.details().operation.empty()) throw;
    throw Error(error.code(), {.why = error.details().why, .operation = info.name, .where = info.where});
  }
}

}  // namespace sluice::detail
