// Sources that every engine has: a collection, records at rest, text in memory, text files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/core/task.h"

namespace sluice::detail {

/// Records of a collection; travels with its records.
template <class T>
class CollectionSource : public Source {
 public:
  explicit CollectionSource(std::vector<T> records) : records_(std::move(records)) {}
  void read(const OpenAt& at, Pipe& out) const override {
    for (std::size_t i = 0; i < records_.size() && !out.full(); i += chunk_records<T>) {
      at.task.check_cancelled();
      out.push(records_.data() + i, std::min(chunk_records<T>, records_.size() - i));
    }
  }

 private:
  std::vector<T> records_;
};

/// Pushes the lines of `text` as string_views, without their ends "\n" or "\r\n"; a last line may lack its end.
/// Returns early when the pipe is full.
void push_lines(TaskContext& task, std::string_view text, Pipe& out);

/// The same lines, copied.
RestedPtr lines_at_rest(std::string_view text);

/// What a text file source reads: a range of bytes of a file. A line belongs to the range in which it begins.
struct TextRange {
  std::string path;
  std::uint64_t begin = 0;
  std::uint64_t end = ~std::uint64_t{0};
  /// Size the file had when the range was chosen: no more is read, and it is an error when it has less. ~0: not known.
  std::uint64_t size = ~std::uint64_t{0};
  /// Which file it was then, an error when it is another. Inode 0: not checked.
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  Time birth{};
};

struct TextReadOptions {
  /// Longer lines are skipped and counted.
  std::uint64_t line_bytes_max = 1 << 20;
  /// Accumulator that counts them.
  std::uint64_t too_long_counter = 0;
};

/// Lines of ranges of files, one after the other. Files whose names end in ".gz" or ".zst" are decompressed and must
/// be whole ranges.
class TextRangeSource : public Source {
 public:
  TextRangeSource(std::vector<TextRange> ranges, TextReadOptions options)
      : ranges_(std::move(ranges)), options_(options) {}
  void read(const OpenAt& at, Pipe& out) const override;

 private:
  std::vector<TextRange> ranges_;
  TextReadOptions options_;
};

/// A block of bytes in memory, owned by whoever `owner` says; immutable.
struct MemoryBlock {
  std::shared_ptr<const void> owner;
  std::string_view bytes;
};

/// Lines of a memory block of this process.
class MemoryTextSource : public Source {
 public:
  explicit MemoryTextSource(MemoryBlock block) : block_(std::move(block)) {}
  void read(const OpenAt& at, Pipe& out) const override { push_lines(at.task, block_.bytes, out); }

 private:
  MemoryBlock block_;
};

/// Records of type T that lie in a memory block.
template <class T>
class MemoryRecordsSource : public Source {
 public:
  explicit MemoryRecordsSource(MemoryBlock block) : block_(std::move(block)) {}
  void read(const OpenAt& at, Pipe& out) const override {
    const T* records = reinterpret_cast<const T*>(block_.bytes.data());
    const std::size_t count = block_.bytes.size() / sizeof(T);
    for (std::size_t i = 0; i < count && !out.full(); i += chunk_records<T>) {
      at.task.check_cancelled();
      out.push(records + i, std::min(chunk_records<T>, count - i));
    }
  }

 private:
  MemoryBlock block_;
};

/// Records at rest, shared.
class RestedSource : public Source {
 public:
  explicit RestedSource(RestedPtr records) : records_(std::move(records)) {}
  void read(const OpenAt&, Pipe& out) const override { records_->push_all(out); }

 private:
  RestedPtr records_;
};

}  // namespace sluice::detail

namespace sluice {

/// A source's block travels with its bytes: correct everywhere, dear for large ones. (Executors of other processes get
/// received blocks from the block store instead.)
template <>
struct codec<detail::MemoryBlock> {
  static void encode(const detail::MemoryBlock& block, Encoder& out);
  static detail::MemoryBlock decode(Decoder& in);
};

template <>
struct codec<detail::RestedPtr> {
  static void encode(const detail::RestedPtr& records, Encoder& out);
  static detail::RestedPtr decode(Decoder& in);
};

}  // namespace sluice
