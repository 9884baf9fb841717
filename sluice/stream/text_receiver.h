// Lines out of a byte stream, as blocks of text: what the receivers of sockets and of standard input share.
//
// Nothing is done per line here. Bytes are read into a large buffer; each read looks for the last line end in what
// came; blocks are views of whole lines in the buffer and share it, so nothing is copied but the unfinished line that
// is carried from a full buffer to the next. Tasks cut the lines. (Measured: 2.2 GB/s from a loopback socket, 2 cores.)
//
// Invariants, of a buffer:
//  T1. 0 <= sealed <= whole <= end <= size - 1. [0, sealed) is in blocks and never written again, [sealed, whole) are
//      whole lines that the next block begins with, [whole, end) is the beginning of a line; one byte is left for the
//      line end that an unfinished line gets at the end of a connection.
//  T2. Bytes of [sealed, whole) are acquired from the budget, those of [whole, end) are not. So whoever waits for the
//      budget holds no bytes of it that the driver could not take, and `seal` never waits.
//  T3. Marks say when [sealed, whole) came: their times do not go back, their ends grow, the last one is `whole`.
//  T4. [whole, end) is at most `line_bytes_max` + 2 bytes: of a longer line that much is kept, so that the task sees a
//      line over the limit, drops it and counts it.
//
// Threads: `receive` on the receiver's thread alone writes the buffer and `end_`; what the driver's `seal` shares with
// it is guarded by a mutex that is never held across a call that may wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sluice/core/arena.h"
#include "sluice/core/sources.h"
#include "sluice/stream/receiver_input.h"

namespace sluice::detail {

class TextReceiverChannel : public ReceiverChannel {
 public:
  TextReceiverChannel(const ReceiverPlace& place, Duration block_interval, std::uint64_t line_bytes_max);

  /// Connects and receives. Returns early when the stream is stopped, also while the server does not answer.
  /// Errors: SLU-402 of the connection.
  void receive_from(const Address& address, Duration connect_timeout);
  /// Reads the connection to its end; the unfinished line there becomes a line. Returns early when the stream is
  /// stopped, which closes the connection. Errors: SLU-402 of the connection; what came before is kept.
  void receive(const std::shared_ptr<Connection>& connection);

  void request_stop() override;
  void seal() override { seal_until(Time::max()); }
  /// A block of the lines that had come in at `time`.
  void seal_until(Time time) override;

 private:
  struct Mark {
    Time time;
    std::size_t end;
  };

  /// What a stop closes while this lives.
  template <class Closable>
  class StopCloses {
   public:
    StopCloses(TextReceiverChannel& channel, std::shared_ptr<Closable> TextReceiverChannel::* place,
               std::shared_ptr<Closable> closable)
        : channel_(channel), place_(place) {
      set(std::move(closable));
    }
    ~StopCloses() { set(nullptr); }
    StopCloses(const StopCloses&) = delete;
    StopCloses& operator=(const StopCloses&) = delete;

   private:
    void set(std::shared_ptr<Closable> closable) {
      const std::lock_guard lock(channel_.mutex_);
      channel_.*place_ = std::move(closable);
    }
    TextReceiverChannel& channel_;
    std::shared_ptr<Closable> TextReceiverChannel::* place_;
  };

  std::span<char> make_room();
  bool take_in(std::size_t bytes);
  bool add_lines(std::size_t whole);
  void end_line();
  void cut_long_line();
  std::size_t keep_line_end(std::size_t bytes);
  Time seal_due();

  const std::uint64_t line_bytes_max_;

  // The receiver's thread only.
  std::size_t end_ = 0;
  bool dropping_ = false;  // inside a line over the limit, whose beginning is kept
  std::size_t next_bytes_;
  Time buffer_begun_{};

  std::mutex mutex_;  // guards what follows; the receiver's thread, which alone writes memory_ and whole_, reads freely
  std::shared_ptr<PooledMemory> memory_;
  std::size_t sealed_ = 0;
  std::size_t whole_ = 0;
  std::vector<Mark> marks_;
  std::shared_ptr<Connector> connector_;
  std::shared_ptr<Connection> connection_;
};

/// A receiver of text. Its blocks are whole texts, of which tasks make lines.
class TextReceiverProgram : public ReceiverProgram {
 public:
  TextReceiverProgram(Duration block_interval, const TextReadOptions& read)
      : block_interval_(block_interval), read_(read) {}

  /// Connects, and calls TextReceiverChannel::receive.
  virtual void receive(TextReceiverChannel& channel) const = 0;

  std::shared_ptr<ReceiverChannel> make_channel(const ReceiverPlace& place) const override;
  Body make_body() const override;
  const TypeOps& block_type() const override { return type_ops<std::string_view>(); }
  Shipped<Source> logged_source(const std::string& wal_directory, const LogHandle& handle) const override;
  Shipped<Kernel> kernel() const override;

 private:
  const Duration block_interval_;
  const TextReadOptions read_;
};

}  // namespace sluice::detail
