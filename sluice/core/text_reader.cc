#include "sluice/core/text_reader.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace sluice::detail {
namespace {

constexpr std::size_t buffer_bytes = 256 << 10;

/// Bytes one after the other.
class ByteReader {
 public:
  virtual ~ByteReader() = default;
  /// 0 at the end.
  virtual std::size_t read(std::span<char> into) = 0;
};

/// The bytes from `begin` to `end`, or to the end of the file.
class PlainReader : public ByteReader {
 public:
  PlainReader(File& file, std::uint64_t begin, std::uint64_t end) : file_(file), offset_(begin), end_(end) {}
  std::size_t read(std::span<char> into) override {
    if (offset_ >= end_) return 0;
    if (into.size() > end_ - offset_) into = into.first(static_cast<std::size_t>(end_ - offset_));
    const std::size_t got = into.empty() ? 0 : file_.read_at(offset_, into);
    offset_ += got;
    return got;
  }
  std::uint64_t offset() const { return offset_; }

 private:
  File& file_;
  std::uint64_t offset_;
  const std::uint64_t end_;
};

/// gzip, also of several members one after the other.
class GzipReader : public ByteReader {
 public:
  GzipReader(File& file, std::uint64_t size, const OpenAt& at, const std::string& path)
      : plain_(file, 0, size), at_(at), path_(path), input_(buffer_bytes) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail_at(at_.info, Code::io_failed, "zlib could not be set up");
  }
  ~GzipReader() override { inflateEnd(&stream_); }

  std::size_t read(std::span<char> into) override {
    stream_.next_out = reinterpret_cast<Bytef*>(into.data());
    stream_.avail_out = static_cast<uInt>(into.size());
    while (stream_.avail_out == into.size()) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
        stream_.avail_in = static_cast<uInt>(plain_.read(input_));
        if (stream_.avail_in == 0) {
          if (in_member_) fail_at(at_.info, Code::truncated_data, path_ + ": the compressed data end too early");
          return 0;
        }
      }
      if (member_ended_) {
        inflateReset(&stream_);
        member_ended_ = false;
      }
      in_member_ = true;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        member_ended_ = true;
        in_member_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail_at(at_.info, Code::corrupt_data, path_ + ": " + (stream_.msg != nullptr ? stream_.msg : "not gzip data"));
      }
    }
    return into.size() - stream_.avail_out;
  }

 private:
  PlainReader plain_;
  const OpenAt& at_;
  const std::string& path_;
  std::vector<char> input_;
  z_stream stream_{};
  bool in_member_ = false;
  bool member_ended_ = false;
};

class ZstdReader : public ByteReader {
 public:
  ZstdReader(File& file, std::uint64_t size, const OpenAt& at, const std::string& path)
      : plain_(file, 0, size), at_(at), path_(path), input_(buffer_bytes), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) fail_at(at_.info, Code::io_failed, "zstd could not be set up");
  }
  ~ZstdReader() override { ZSTD_freeDStream(stream_); }

  std::size_t read(std::span<char> into) override {
    ZSTD_outBuffer output{into.data(), into.size(), 0};
    while (output.pos == 0) {
      // (While it has output of a frame's end left, zstd keeps back its last byte of input.)
      if (pending_.pos == pending_.size) {
        pending_ = {input_.data(), plain_.read(input_), 0};
        if (pending_.size == 0) {
          if (in_frame_) fail_at(at_.info, Code::truncated_data, path_ + ": the compressed data end too early");
          return 0;
        }
      }
      const std::size_t result = ZSTD_decompressStream(stream_, &output, &pending_);
      if (ZSTD_isError(result) != 0) fail_at(at_.info, Code::corrupt_data, path_ + ": " + ZSTD_getErrorName(result));
      in_frame_ = result != 0;
    }
    return output.pos;
  }

 private:
  PlainReader plain_;
  const OpenAt& at_;
  const std::string& path_;
  std::vector<char> input_;
  ZSTD_inBuffer pending_{nullptr, 0, 0};
  ZSTD_DStream* stream_;
  bool in_frame_ = false;
};

bool ends_with(std::string_view text, std::string_view end) { return text.ends_with(end); }

/// Cuts bytes into lines as they come; counts and drops lines over the limit.
class LineCutter {
 public:
  LineCutter(const OpenAt& at, const TextReadOptions& options, Pipe& out) : at_(at), options_(options), out_(out) {}

  /// Pushes whole lines of `buffer`; returns how many bytes at its end are an unfinished line.
  std::size_t whole_lines(std::string_view buffer) {
    const std::size_t last = buffer.rfind('\n');
    if (last == std::string_view::npos) return buffer.size();
    push(buffer.substr(0, last + 1));
    return buffer.size() - last - 1;
  }
  void push(std::string_view lines) {
    if (options_.line_bytes_max >= lines.size()) {
      push_lines(at_.task, lines, out_);
      return;
    }
    // Rare: some line may be too long. Runs of good lines are pushed together.
    std::size_t good = 0;
    for (std::size_t begin = 0; begin < lines.size();) {
      const std::size_t newline = std::min(lines.find('\n', begin), lines.size());
      const std::size_t end = std::min(newline + 1, lines.size());
      const bool has_return = newline > begin && lines[newline - 1] == '\r';
      if (too_long(newline - begin - (has_return ? 1 : 0))) {
        push_lines(at_.task, lines.substr(good, begin - good), out_);
        count_too_long();
        good = end;
      }
      begin = end;
    }
    push_lines(at_.task, lines.substr(good), out_);
  }
  void count_too_long() {
    if (options_.too_long_counter != 0) at_.task.add(options_.too_long_counter, 1);
  }
  bool too_long(std::size_t bytes) const { return bytes > options_.line_bytes_max; }
  /// The same for a line whose end has not come yet: a last "\r" may be a part of that.
  bool already_too_long(std::string_view begun) const {
    return too_long(begun.size() - (begun.ends_with('\r') ? 1 : 0));
  }

 private:
  const OpenAt& at_;
  const TextReadOptions& options_;
  Pipe& out_;
};

/// Pushes the lines that begin before `end`. `position` is where the reader stands; with `skipping` that is inside a
/// line, which belongs to the range before.
void read_lines(const OpenAt& at, ByteReader& reader, std::uint64_t position, std::uint64_t end, bool skipping,
                const TextReadOptions& options, Pipe& out) {
  const PooledMemory memory(buffer_bytes + 1);
  std::string long_line;  // an unfinished line longer than the buffer
  LineCutter cutter(at, options, out);
  std::size_t kept = 0;
  bool dropping = false;  // inside a line that is too long
  while (!out.full()) {
    // Here everything before `end` may have been read up to a line's end.
    if (!skipping && !dropping && position - kept - long_line.size() >= end) return;
    const std::size_t got = reader.read({memory.data() + kept, buffer_bytes - kept});
    const std::uint64_t buffer_begin = position - kept;
    position += got;
    std::string_view buffer(memory.data(), kept + got);
    if (got == 0) {
      if (skipping || dropping || buffer_begin - long_line.size() >= end) return;
      if (!long_line.empty()) {
        long_line.append(buffer);
        buffer = long_line;
      }
      if (!buffer.empty()) cutter.push(buffer);
      return;
    }
    // Lines that begin at or after the end belong to the next range: cut after the line that crosses it.
    bool last = false;
    if (position > end) {
      const std::size_t from = end > buffer_begin ? static_cast<std::size_t>(end - buffer_begin - 1) : 0;
      const std::size_t newline = buffer.find('\n', from);
      if (newline != std::string_view::npos) {
        buffer = buffer.substr(0, newline + 1);
        last = true;
      }
    }
    if (skipping || dropping) {
      const std::size_t newline = buffer.find('\n');
      if (newline == std::string_view::npos) {
        kept = 0;
        if (last || (skipping && position >= end)) return;
        continue;
      }
      if (skipping && buffer_begin + newline + 1 >= end) return;
      skipping = dropping = false;
      buffer.remove_prefix(newline + 1);
    }
    if (!long_line.empty()) {
      const std::size_t newline = buffer.find('\n');
      const std::size_t taken = newline == std::string_view::npos ? buffer.size() : newline + 1;
      long_line.append(buffer.substr(0, taken));
      buffer.remove_prefix(taken);
      if (newline != std::string_view::npos) {
        cutter.push(long_line);
        long_line.clear();
      } else if (cutter.already_too_long(long_line)) {
        cutter.count_too_long();
        long_line.clear();
        dropping = true;
      }
    }
    kept = cutter.whole_lines(buffer);
    if (last) return;
    if (kept == 0) continue;
    const std::string_view rest = buffer.substr(buffer.size() - kept);
    if (kept < buffer_bytes / 2) {
      std::memmove(memory.data(), rest.data(), kept);
    } else if (cutter.already_too_long(rest)) {
      cutter.count_too_long();
      dropping = true;
      kept = 0;
    } else {
      long_line.assign(rest);
      kept = 0;
    }
  }
}

}  // namespace

bool is_compressed(std::string_view path) { return ends_with(path, ".gz") || ends_with(path, ".zst"); }

void read_text_range(const OpenAt& at, const TextRange& range, const TextReadOptions& options, Pipe& out) {
  FileSystem& files = at.task.environment().runtime.files();
  const std::unique_ptr<File> file = files.open(range.path);
  if (file == nullptr) fail_at(at.info, Code::not_readable, range.path + ": no such file");
  const FileInfo info = file->info();
  const bool size_known = range.size != ~std::uint64_t{0};
  if (size_known && info.size_bytes < range.size) {
    fail_at(at.info, Code::file_changed, range.path + ": is shorter than when it was chosen");
  }
  if (range.inode != 0 && (info.inode != range.inode || info.device != range.device || info.birth != range.birth)) {
    fail_at(at.info, Code::file_changed, range.path + ": is another file than the one that was chosen");
  }
  if (ends_with(range.path, ".gz")) {
    GzipReader reader(*file, range.size, at, range.path);
    return read_lines(at, reader, 0, ~std::uint64_t{0}, false, options, out);
  }
  if (ends_with(range.path, ".zst")) {
    ZstdReader reader(*file, range.size, at, range.path);
    return read_lines(at, reader, 0, ~std::uint64_t{0}, false, options, out);
  }
  // A range that begins inside a line leaves that line to the range before it.
  bool skipping = false;
  if (range.begin > 0) {
    char before = 0;
    if (file->read_at(range.begin - 1, {&before, 1}) == 1) skipping = before != '\n';
  }
  // What was appended since the range was chosen is not read: a task that runs again reads the same bytes.
  PlainReader reader(*file, range.begin, range.size);
  read_lines(at, reader, range.begin, range.end, skipping, options, out);
  if (size_known && reader.offset() < range.size && file->info().size_bytes < range.size) {
    fail_at(at.info, Code::file_changed, range.path + ": was cut while it was read");
  }
}

std::uint64_t read_text_bytes(const OpenAt& at, File& file, std::uint64_t begin, std::uint64_t end,
                              const TextReadOptions& options, Pipe& out) {
  PlainReader reader(file, begin, end);
  read_lines(at, reader, 0, ~std::uint64_t{0}, false, options, out);
  return reader.offset() - begin;
}

void push_lines_within(const OpenAt& at, std::string_view text, const TextReadOptions& options, Pipe& out) {
  LineCutter(at, options, out).push(text);
}

}  // namespace sluice::detail
