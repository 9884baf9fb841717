#include "sluice/stream/text_receiver.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "sluice/core/text_reader.h"

namespace sluice::detail {
namespace {

// A buffer that fills within a block interval is followed by a larger one: fewer blocks, fewer system calls.
constexpr std::size_t buffer_bytes_min = 256 << 10;
constexpr std::size_t buffer_bytes_max = 1 << 20;
// A read into less is not worth its system call.
constexpr std::size_t room_bytes_min = 32 << 10;
static_assert(room_bytes_min * 4 <= buffer_bytes_min);
// A peer that sends a line at a time may not make the list of marks longer than its text.
constexpr std::size_t marks_max = 4096;

/// A received block: one record.
class ReceivedTextSource : public Source {
 public:
  explicit ReceivedTextSource(MemoryBlock block) : block_(std::move(block)) {}
  void read(const OpenAt&, Pipe& out) const override { out.push(&block_.bytes, 1); }

 private:
  MemoryBlock block_;
};

/// The same out of the write-ahead log.
class LoggedTextSource : public Source {
 public:
  LoggedTextSource(std::string directory, LogHandle handle) : directory_(std::move(directory)), handle_(handle) {}
  void read(const OpenAt& at, Pipe& out) const override {
    const std::string bytes = read_log_record(at.task.environment().runtime.files(), directory_, handle_);
    const std::string_view text = bytes;
    out.push(&text, 1);
  }

 private:
  std::string directory_;
  LogHandle handle_;
};

/// Texts in, their lines out.
class CutLinesKernel : public Kernel {
 public:
  explicit CutLinesKernel(TextReadOptions options) : options_(options) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<CutLines>(at, options_, next);
  }

 private:
  class CutLines : public Pipe {
   public:
    CutLines(const OpenAt& at, const TextReadOptions& options, Pipe& next) : at_(at), options_(options), next_(next) {}
    void push(const void* records, std::size_t count) override {
      const auto* texts = static_cast<const std::string_view*>(records);
      for (std::size_t i = 0; i < count; ++i) push_lines_within(at_, texts[i], options_, next_);
    }
    void finish() override { next_.finish(); }
    bool full() const override { return next_.full(); }

   private:
    const OpenAt at_;
    const TextReadOptions& options_;
    Pipe& next_;
  };

  const TextReadOptions options_;
};

}  // namespace

TextReceiverChannel::TextReceiverChannel(const ReceiverPlace& place, Duration block_interval,
                                         std::uint64_t line_bytes_max)
    : ReceiverChannel(place, block_interval), line_bytes_max_(line_bytes_max), next_bytes_(buffer_bytes_min) {}

void TextReceiverChannel::receive_from(const Address& address, Duration connect_timeout) {
  std::shared_ptr<Connection> connection;
  {
    const std::shared_ptr<Connector> connector = runtime_.transport().connector(address);
    const StopCloses stop_closes(*this, &TextReceiverChannel::connector_, connector);
    // Looked at after the connector was made known: a stop since then closes it.
    if (stopped()) return;
    try {
      connection = connector->connect(runtime_.clock().now() + connect_timeout);
    } catch (const Error&) {
      if (stopped()) return;
      throw;
    }
  }
  receive(connection);
}

void TextReceiverChannel::receive(const std::shared_ptr<Connection>& connection) {
  const StopCloses stop_closes(*this, &TextReceiverChannel::connection_, connection);
  // Looked at after the connection was made known: a stop since then closes it.
  try {
    while (!stopped()) {
      const std::optional<std::size_t> got = connection->read(make_room(), seal_due());
      if (got.has_value() && *got == 0) break;
      if (got.has_value() && !take_in(*got)) return;
      if (seal_due() <= runtime_.clock().now()) seal();
    }
  } catch (const Error&) {
    if (stopped()) return;
    end_line();
    throw;
  }
  if (!stopped()) end_line();
}

void TextReceiverChannel::request_stop() {
  ReceiverChannel::request_stop();
  std::shared_ptr<Connector> connector;
  std::shared_ptr<Connection> connection;
  {
    const std::lock_guard lock(mutex_);
    connector = connector_;
    connection = connection_;
  }
  if (connector != nullptr) connector->close();
  if (connection != nullptr) connection->close();
}

// Where the next bytes go. A full buffer is sealed; its unfinished line moves to the beginning of the next one.
std::span<char> TextReceiverChannel::make_room() {
  if (memory_ == nullptr || memory_->size() - 1 - end_ < room_bytes_min) {
    const Time now = runtime_.clock().now();
    seal();
    const bool filled_fast = memory_ != nullptr && now - buffer_begun_ < block_interval_;
    next_bytes_ = filled_fast ? std::min(next_bytes_ * 2, buffer_bytes_max) : buffer_bytes_min;
    buffer_begun_ = now;
    const std::size_t carried = end_ - whole_;
    auto memory = std::make_shared<PooledMemory>(std::max(next_bytes_, 2 * (carried + room_bytes_min)));
    if (carried > 0) std::memcpy(memory->data(), memory_->data() + whole_, carried);
    end_ = carried;
    const std::lock_guard lock(mutex_);
    SLUICE_ASSERT(sealed_ == whole_ && marks_.empty());
    memory_ = std::move(memory);
    sealed_ = whole_ = 0;
  }
  return {memory_->data() + end_, memory_->size() - 1 - end_};
}

// `bytes` have been read to `end_`. False when the stream stops.
bool TextReceiverChannel::take_in(std::size_t bytes) {
  if (dropping_) bytes = keep_line_end(bytes);
  const char* const begin = memory_->data() + end_;
  end_ += bytes;
  const auto* last = bytes == 0 ? nullptr : static_cast<const char*>(::memrchr(begin, '\n', bytes));
  if (last != nullptr && !add_lines(static_cast<std::size_t>(last + 1 - memory_->data()))) return false;
  cut_long_line();
  return true;
}

// The lines up to `whole` may go into blocks, once there is room in the budget for them.
bool TextReceiverChannel::add_lines(std::size_t whole) {
  if (!budget().acquire(whole - whole_)) return false;
  bool many = false;
  {
    const std::lock_guard lock(mutex_);
    whole_ = whole;
    marks_.push_back({runtime_.clock().now(), whole});
    many = marks_.size() >= marks_max;
  }
  if (many) seal();
  return true;
}

// The unfinished line is a line: nothing will follow.
void TextReceiverChannel::end_line() {
  dropping_ = false;
  if (memory_ == nullptr || end_ == whole_) return;
  memory_->data()[end_++] = '\n';
  // Refused only when the stream is being stopped.
  if (!add_lines(end_)) end_ = whole_;
}

// Of an unfinished line over the limit so much is kept that it is still over it, also when it ends with "\r\n" (T4).
void TextReceiverChannel::cut_long_line() {
  const std::size_t bytes = end_ - whole_;
  if (bytes < 2 || bytes - 2 < line_bytes_max_) return;
  end_ = whole_ + static_cast<std::size_t>(line_bytes_max_) + 2;
  dropping_ = true;
}

// `bytes` that follow the beginning of a line over the limit: all are dropped up to its end. Returns how many are left.
std::size_t TextReceiverChannel::keep_line_end(std::size_t bytes) {
  char* const begin = memory_->data() + end_;
  const auto* newline = static_cast<const char*>(std::memchr(begin, '\n', bytes));
  if (newline == nullptr) return 0;
  dropping_ = false;
  const std::size_t left = static_cast<std::size_t>(begin + bytes - newline);
  std::memmove(begin, newline, left);
  return left;
}

Time TextReceiverChannel::seal_due() {
  const std::lock_guard lock(mutex_);
  return marks_.empty() ? Time::max() : marks_.front().time + block_interval_;
}

void TextReceiverChannel::seal_until(Time time) {
  // The mutex is held until the block is stored: blocks of the driver and of the receiver keep their order.
  const std::lock_guard lock(mutex_);
  const auto after =
      std::find_if(marks_.rbegin(), marks_.rend(), [time](const Mark& mark) { return mark.time <= time; }).base();
  if (after == marks_.begin()) return;
  const Mark last = *(after - 1);
  marks_.erase(marks_.begin(), after);
  const std::size_t bytes = last.end - sealed_;
  const MemoryBlock text{memory_, std::string_view(memory_->data() + sealed_, bytes)};
  sealed_ = last.end;
  NewBlock block{ship<Source, ReceivedTextSource>(OperatorInfo{}, text), bytes};
  block.rested = [text] {
    auto rested = std::make_shared<RestedRecords>(type_ops<std::string_view>());
    rested->append(&text.bytes, 1);
    return rested;
  };
  block.logged = [text] { return MemoryBlock(text); };
  put_block(std::move(block), last.time);
}

// ---- TextReceiverProgram

std::shared_ptr<ReceiverChannel> TextReceiverProgram::make_channel(const ReceiverPlace& place) const {
  return std::make_shared<TextReceiverChannel>(place, block_interval_, read_.line_bytes_max);
}

ReceiverProgram::Body TextReceiverProgram::make_body() const {
  return [this](ReceiverChannel& channel) { receive(static_cast<TextReceiverChannel&>(channel)); };
}

Shipped<Source> TextReceiverProgram::logged_source(const std::string& wal_directory, const LogHandle& handle) const {
  return ship<Source, LoggedTextSource>(OperatorInfo{}, std::string(wal_directory), LogHandle(handle));
}

Shipped<Kernel> TextReceiverProgram::kernel() const {
  return ship<Kernel, CutLinesKernel>(OperatorInfo{}, TextReadOptions(read_));
}

}  // namespace sluice::detail
