#include "sluice/core/remote_task.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "sluice/core/stores.h"
#include "sluice/runtime/checksum.h"

namespace sluice::detail {
namespace {

constexpr std::string_view child_mark = "--sluice-run-tasks";
const Time no_deadline = Time::max();

bool read_whole(Connection& connection, char* to, std::size_t size, Time deadline) {
  for (std::size_t got = 0; got < size;) {
    const auto n = connection.read({to + got, size - got}, deadline);
    if (!n.has_value()) throw Error(Code::network_failed, {.why = "a frame did not arrive in time"});
    if (*n == 0) {
      if (got == 0) return false;
      throw Error(Code::truncated_data, {.why = "the connection ended inside a frame"});
    }
    got += *n;
  }
  return true;
}

std::string run_encoded(const std::string& message, TaskEnvironment& environment) {
  Encoder answer;
  try {
    Decoder in(message);
    TaskId id;
    id.job = in.u64();
    id.stage = in.u32();
    id.task = in.u32();
    id.attempt = in.u32();
    id.batch = static_cast<std::int64_t>(in.u64());
    environment.hash_seed = in.u64();
    const TaskProgram program = TaskProgram::decode_from(in);
    const TaskResult result = run_task(program, id, environment);
    answer.u8(1);
    encode_result(result, answer);
  } catch (const Error& error) {
    answer.clear();
    answer.u8(0);
    answer.u32(static_cast<std::uint32_t>(error.code()));
    answer.text(error.details().why);
    answer.text(error.details().operation);
    encode_place(error.details().where, answer);
  } catch (...) {
    answer.clear();
    answer.u8(0);
    answer.u32(static_cast<std::uint32_t>(Code::task_failed));
    answer.text(current_exception_text());
    answer.text("");
    encode_place({}, answer);
  }
  return answer.take();
}

}  // namespace

void write_frame(Connection& connection, std::string_view payload, Time deadline) {
  if (payload.size() > frame_bytes_max) {
    throw Error(Code::over_limit, {.why = "a frame of " + std::to_string(payload.size()) + " bytes"});
  }
  Encoder header;
  header.u32(static_cast<std::uint32_t>(payload.size()));
  header.u32(crc32c(payload));
  connection.write(header.view(), deadline);
  connection.write(payload, deadline);
}

std::optional<std::string> read_frame(Connection& connection, Time deadline) {
  char head[8];
  if (!read_whole(connection, head, sizeof head, deadline)) return std::nullopt;
  Decoder header(std::string_view(head, sizeof head));
  const std::uint32_t size = header.u32();
  const std::uint32_t sum = header.u32();
  if (size > frame_bytes_max) throw Error(Code::over_limit, {.why = "a frame of " + std::to_string(size) + " bytes"});
  // Memory is taken as bytes come in, not as a peer announces them.
  std::string payload;
  while (payload.size() < size) {
    const std::size_t begin = payload.size();
    payload.resize(std::min<std::size_t>(size, std::max<std::size_t>(64 << 10, 2 * begin)));
    if (!read_whole(connection, payload.data() + begin, payload.size() - begin, deadline)) {
      throw Error(Code::truncated_data, {.why = "the connection ended inside a frame"});
    }
  }
  if (crc32c(payload) != sum) throw Error(Code::corrupt_data, {.why = "a frame's checksum is wrong"});
  return payload;
}

TaskProcess::TaskProcess() : child_(spawn_self({std::string(child_mark)})) {}

TaskProcess::~TaskProcess() {
  child_->connection().close();
  child_->wait();
}

TaskResult TaskProcess::run(const TaskProgram& program, const TaskId& id, std::uint64_t hash_seed) {
  Encoder message;
  message.u64(id.job);
  message.u32(id.stage);
  message.u32(id.task);
  message.u32(id.attempt);
  message.u64(static_cast<std::uint64_t>(id.batch));
  message.u64(hash_seed);
  program.encode_to(message);
  write_frame(child_->connection(), message.view(), no_deadline);
  const auto answer = read_frame(child_->connection(), no_deadline);
  if (!answer.has_value()) throw Error(Code::process_failed, {.why = "the process that runs tasks has ended"});
  Decoder in({answer->data(), answer->size()});
  if (in.u8() == 1) return decode_result(in);
  const auto code = static_cast<Code>(in.u32());
  ErrorDetails details{.why = std::string(in.text()), .operation = std::string(in.text())};
  details.where = decode_place(in);
  throw Error(code, std::move(details));
}

void run_tasks_if_child(int argc, char** argv) {
  if (argc < 2 || argv[1] != child_mark) return;
  Runtime& runtime = system_runtime();
  BlockStore blocks(runtime, {});
  ShuffleStore shuffles;
  StateStore states;
  TaskEnvironment environment{runtime, blocks, shuffles, states, 0, false};
  const auto connection = connection_to_parent();
  while (const auto message = read_frame(*connection, no_deadline)) {
    write_frame(*connection, run_encoded(*message, environment), no_deadline);
  }
  std::_Exit(0);  // the rest of main belongs to the driver
}

}  // namespace sluice::detail
