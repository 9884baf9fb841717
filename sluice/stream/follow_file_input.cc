#include "sluice/stream/follow_file_input.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/text_reader.h"

namespace sluice::detail {

/// Bytes at a place of a file, by which is seen later whether the file has been rewritten.
struct FileMark {
  std::uint64_t end = 0;
  std::string bytes;
};

/// Whole lines of an open file, local to this process; or, when they came from another process, their bytes. Then
/// [begin, end) is as long as what could not be read any more.
struct FollowedRange {
  std::shared_ptr<File> file;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  FileMark mark;
  MemoryBlock block;
};

namespace {

constexpr std::size_t mark_bytes = 64;
// Steps in which line ends are looked for.
constexpr std::size_t look_bytes = 64 << 10;
// Ranges are about this large, one a partition.
constexpr std::uint64_t split_bytes = 4 << 20;

/// The `mark_bytes` before `end`, or fewer at the beginning of the file.
FileMark mark_before(File& file, std::uint64_t end) {
  FileMark mark{end, std::string(static_cast<std::size_t>(std::min<std::uint64_t>(end, mark_bytes)), '\0')};
  mark.bytes.resize(file.read_at(end - mark.bytes.size(), mark.bytes));
  return mark;
}

bool is_complete(const FileMark& mark) { return mark.bytes.size() == std::min<std::uint64_t>(mark.end, mark_bytes); }

bool still_holds(File& file, const FileMark& mark) {
  return is_complete(mark) && mark_before(file, mark.end).bytes == mark.bytes;
}

}  // namespace
}  // namespace sluice::detail

namespace sluice {

/// The range travels as its bytes: the open file means nothing elsewhere.
template <>
struct codec<detail::FollowedRange> {
  static void encode(const detail::FollowedRange& range, Encoder& out) {
    std::string bytes(range.block.bytes);
    std::uint64_t lost = range.end - range.begin;
    if (range.file != nullptr) {
      bytes.resize(static_cast<std::size_t>(lost));
      bytes.resize(range.file->read_at(range.begin, bytes));
      // Looked at after reading: so what was read is what was chosen.
      if (!detail::still_holds(*range.file, range.mark)) bytes.clear();
      lost -= bytes.size();
    }
    out.u64(lost);
    out.text(bytes);
  }
  static detail::FollowedRange decode(Decoder& in) {
    const std::uint64_t lost = in.u64();
    const auto bytes = std::make_shared<const std::string>(in.text());
    return {nullptr, 0, lost, {}, {bytes, *bytes}};
  }
};

}  // namespace sluice

namespace sluice::detail {
namespace {

/// Where the line begins that the byte before `end` belongs to, if not before `begin`: just after the last line end in
/// [begin, end).
std::optional<std::uint64_t> last_line_begin(File& file, std::uint64_t begin, std::uint64_t end) {
  const PooledMemory memory(look_bytes);
  while (end > begin) {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(end - begin, look_bytes));
    const std::size_t got = file.read_at(end - size, {memory.data(), size});
    const std::size_t newline = std::string_view(memory.data(), got).rfind('\n');
    if (newline != std::string_view::npos) return end - size + newline + 1;
    end -= size;
  }
  return std::nullopt;
}

/// Just after the first line end in [begin, end).
std::optional<std::uint64_t> first_line_end(File& file, std::uint64_t begin, std::uint64_t end) {
  const PooledMemory memory(look_bytes);
  while (begin < end) {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(end - begin, look_bytes));
    const std::size_t got = file.read_at(begin, {memory.data(), size});
    const std::size_t newline = std::string_view(memory.data(), got).find('\n');
    if (newline != std::string_view::npos) return begin + newline + 1;
    if (got < size) break;
    begin += size;
  }
  return std::nullopt;
}

class FollowedSource : public Source {
 public:
  FollowedSource(FollowedRange range, TextReadOptions options, std::uint64_t lost_counter)
      : range_(std::move(range)), options_(options), lost_counter_(lost_counter) {}

  // After a truncation other bytes stand in the range, or will, and a later batch takes them. So what was to be read is
  // lost and counted, and the batch goes on without it. When that happens while the task reads, the attempt fails and
  // the next one gives nothing: no line is given in parts, or twice.
  void read(const OpenAt& at, Pipe& out) const override {
    const std::uint64_t bytes = range_.end - range_.begin;
    if (range_.file == nullptr) {
      count_lost(at, bytes);
      return push_lines_within(at, range_.block.bytes, options_, out);
    }
    if (!still_holds(*range_.file, range_.mark)) return count_lost(at, bytes);
    const std::uint64_t got = read_text_bytes(at, *range_.file, range_.begin, range_.end, options_, out);
    if ((got == bytes || out.full()) && still_holds(*range_.file, range_.mark)) return;
    throw Error(Code::file_changed, {.why = range_.file->info().path + ": was truncated while it was read",
                                     .operation = at.info.name,
                                     .where = at.info.where});
  }

 private:
  void count_lost(const OpenAt& at, std::uint64_t bytes) const {
    if (bytes > 0) at.task.add(lost_counter_, static_cast<std::int64_t>(bytes));
  }

  FollowedRange range_;
  TextReadOptions options_;
  std::uint64_t lost_counter_;
};

void save_mark(const FileMark& mark, Encoder& out) {
  out.varint(mark.end);
  out.text(mark.bytes);
}
FileMark load_mark(Decoder& in) {
  FileMark mark{in.varint(), {}};
  mark.bytes = std::string(in.text());
  return mark;
}

/// Which file it is, however it is called.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  Time birth{};
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;

  static FileIdentity of(const FileInfo& info) { return {info.device, info.inode, info.birth}; }
  void save(Encoder& out) const {
    out.u64(device);
    out.u64(inode);
    encode(birth, out);
  }
  static FileIdentity load(Decoder& in) {
    const std::uint64_t device = in.u64();
    const std::uint64_t inode = in.u64();
    return {device, inode, decode<Time>(in)};
  }
};

/// Opens a file by what it is: it may have been renamed since, within its directory. nullptr when it is not there.
std::shared_ptr<File> open_same(FileSystem& files, const std::string& path, const FileIdentity& wanted) {
  const auto open_if_same = [&](const std::string& name) -> std::shared_ptr<File> {
    std::shared_ptr<File> file = files.open(name);
    return file != nullptr && FileIdentity::of(file->info()) == wanted ? file : nullptr;
  };
  if (auto file = open_if_same(path)) return file;
  const auto listed = files.list(parent_path(path));
  if (!listed.has_value()) return nullptr;
  for (const FileInfo& each : *listed) {
    if (each.is_directory || FileIdentity::of(each) != wanted) continue;
    if (auto file = open_if_same(each.path)) return file;
  }
  return nullptr;
}

/// One file, however it is called.
class FollowedFile {
 public:
  explicit FollowedFile(std::shared_ptr<File> file) : file_(std::move(file)), info_(file_->info()) {}
  FollowedFile(std::shared_ptr<File> file, FileMark taken) : FollowedFile(std::move(file)) {
    taken_ = std::move(taken);
  }

  const FileInfo& info() const { return info_; }
  const std::shared_ptr<File>& file() const { return file_; }
  const FileMark& taken() const { return taken_; }

  /// Leaves out what stands there now, but the beginning of an unfinished line.
  void skip_to_last_line(std::uint64_t line_bytes_max) {
    const std::uint64_t size = info_.size_bytes;
    // A line with a longer beginning is over the limit: its rest is no line, whatever it is.
    const std::uint64_t from = size > line_bytes_max + 1 ? size - line_bytes_max - 1 : 0;
    taken_ = mark_before(*file_, last_line_begin(*file_, from, size).value_or(from));
  }

  /// True when the file was truncated since the last look; then it is read from its beginning again.
  bool look() {
    info_ = file_->info();
    const bool truncated = info_.size_bytes < taken_.end || !still_holds(*file_, taken_);
    if (truncated) taken_ = {};
    if (info_.size_bytes < looked_.end || !still_holds(*file_, looked_)) looked_ = {};
    return truncated;
  }
  /// Takes whole lines, at most `bytes_max` bytes of them but one line at least; with `all` also the unfinished one at
  /// the end. Appends their ranges. False when there are more lines.
  bool take(std::uint64_t bytes_max, bool all, std::vector<FollowedRange>& ranges) {
    const bool limited = info_.size_bytes - taken_.end > bytes_max;
    const std::uint64_t end = lines_end(bytes_max, all);
    while (taken_.end < end) {
      FollowedRange range{file_, taken_.end, end, {}, {}};
      if (end - range.begin > split_bytes * 3 / 2) {
        range.end = first_line_end(*file_, range.begin + split_bytes, end).value_or(end);
      }
      range.mark = mark_before(*file_, range.end);
      // Truncated since `look`, so that line ends were looked for in other lines: the next batch begins again.
      const bool ends_a_line = is_complete(range.mark) && (all || range.mark.bytes.back() == '\n');
      if (!ends_a_line || !still_holds(*file_, taken_)) return false;
      taken_ = range.mark;
      ranges.push_back(std::move(range));
    }
    return !limited;
  }

 private:
  // Where the lines to be taken end; where those end that are taken already, when there are none.
  std::uint64_t lines_end(std::uint64_t bytes_max, bool all) {
    const std::uint64_t begin = taken_.end;
    const std::uint64_t size = info_.size_bytes;
    const bool limited = size - begin > bytes_max;
    if (all && !limited) return size;
    const std::uint64_t until = limited ? begin + bytes_max : size;
    const std::uint64_t from = std::max(begin, std::min(looked_.end, until));
    if (const auto end = last_line_begin(*file_, from, until)) return *end;
    // One line of more bytes than a batch should have is still one record, or one over the limit.
    if (limited) {
      if (const auto end = first_line_end(*file_, std::max({begin, until, looked_.end}), size)) return *end;
      if (all) return size;
    }
    // Not to look through a long unfinished line again in each batch.
    if (size - begin > look_bytes) looked_ = mark_before(*file_, size);
    return begin;
  }

  std::shared_ptr<File> file_;
  FileInfo info_;
  FileMark taken_;   // up to here lines were taken
  FileMark looked_;  // between `taken_` and here is no line end; ignored when it is not after `taken_`
};

// Threads: start() on the caller's thread, all else on the stream's.
class FollowFileInput final : public Input {
 public:
  FollowFileInput(Engine& engine, std::string path, FollowFileOptions options, std::uint64_t too_long_counter,
                  std::size_t partitions_max)
      : path_(std::move(path)),
        options_(options),
        read_{options.line_bytes_max, too_long_counter},
        lost_counter_(engine.next_id()),
        partitions_max_(partitions_max) {}

  std::string argument() const override { return path_; }

  void start(Engine& engine, InputStart start) override {
    FileSystem& files = engine.runtime().files();
    try {
      if (start.resumes) return resume(files);
      followed_.clear();
      const std::optional<FileInfo> there = files.stat(path_);
      if (!there.has_value()) return;
      if (there->is_directory) throw Error(Code::not_readable, {.why = path_ + " is a directory"});
      follow(files);
      if (!followed_.empty() && !options_.from_start) followed_.back().file.skip_to_last_line(options_.line_bytes_max);
    } catch (const Error& error) {
      if (error.code() == Code::not_readable) throw;
      throw Error(Code::not_readable, {.why = path_ + ": " + error.details().why});
    }
  }

  std::string choose(Engine& engine, Time time, InputInfo& told) override {
    std::vector<FollowedRange> ranges;
    std::string failure;
    try {
      look_for_rotation(engine.runtime().files());
      take(time, ranges);
    } catch (const Error& error) {
      // What was taken before the failure is taken; the rest is looked for by the next batch.
      failure = error.details().why;
      ++failures_;
    }
    Encoder out;
    out.varint(ranges.size());
    for (const FollowedRange& range : ranges) {
      FileIdentity::of(range.file->info()).save(out);
      out.varint(range.begin);
      out.varint(range.end);
      save_mark(range.mark, out);
      told.bytes += range.end - range.begin;
      at_hand_.push_back(range.file);
    }
    told.blocks += ranges.size();
    told.description = describe(engine, failure);
    // Where it stands afterwards: files may have been turned to and left, also in a batch that takes nothing.
    save(out);
    return out.take();
  }

  NodePtr rdd(Engine& engine, const OperatorInfoPtr& info, std::string_view choice, InputInfo&) override {
    std::vector<Shipped<Source>> sources;
    if (!choice.empty()) {
      Decoder in(choice);
      for (std::size_t left = in.count(); left > 0; --left) {
        const FileIdentity wanted = FileIdentity::load(in);
        const std::uint64_t begin = in.varint();
        const std::uint64_t end = in.varint();
        FileMark mark = load_mark(in);
        FollowedRange range{find(engine.runtime().files(), wanted), begin, end, std::move(mark), {}};
        if (range.file == nullptr) {
          throw Error(Code::not_readable,
                      {.why = path_ + ": the file that a batch of an earlier run has read is gone; " +
                              std::to_string(end - begin) + " bytes of it are needed again",
                       .operation = info->name,
                       .where = info->where});
        }
        sources.push_back(ship<Source, FollowedSource>(*info, std::move(range), read_, lost_counter_));
      }
    }
    at_hand_.clear();
    return make_input_node(info, type_ops<std::string_view>(), std::move(sources), partitions_max_);
  }

  void redo(std::string_view choice) override {
    if (choice.empty()) return;
    Decoder in(choice);
    for (std::size_t left = in.count(); left > 0; --left) {
      FileIdentity::load(in);
      in.varint();
      in.varint();
      load_mark(in);
    }
    load(in);
  }

  void save(Encoder& out) override {
    out.varint(followed_.size());
    for (const Followed& each : followed_) {
      FileIdentity::of(each.file.info()).save(out);
      save_mark(each.file.taken(), out);
      encode(each.rotated, out);
    }
  }

  // Files are looked for in `start`.
  void load(Decoder& in) override {
    earlier_.clear();
    for (std::size_t left = in.count(); left > 0; --left) {
      const FileIdentity identity = FileIdentity::load(in);
      FileMark taken = load_mark(in);
      earlier_.push_back({identity, std::move(taken), decode<std::optional<Time>>(in)});
    }
  }

  // What was appended since the last batch is seen only by looking: a graceful stop looks once more.
  bool pending() override { return true; }

 private:
  struct Followed {
    FollowedFile file;
    /// The batch that saw the path lead elsewhere.
    std::optional<Time> rotated;
  };

  struct Earlier {
    FileIdentity identity;
    FileMark taken;
    std::optional<Time> rotated;
  };

  // Goes on with the files of an earlier run, whatever they are called now. One that has gone is counted: what it had
  // that was not read is lost.
  void resume(FileSystem& files) {
    followed_.clear();
    for (Earlier& each : std::exchange(earlier_, {})) {
      if (auto file = open_same(files, path_, each.identity)) {
        followed_.push_back({FollowedFile(std::move(file), std::move(each.taken)), each.rotated});
      } else {
        ++gone_;
      }
    }
  }

  std::shared_ptr<File> find(FileSystem& files, const FileIdentity& wanted) {
    for (const std::shared_ptr<File>& file : at_hand_) {
      if (FileIdentity::of(file->info()) == wanted) return file;
    }
    for (const Followed& each : followed_) {
      if (FileIdentity::of(each.file.info()) == wanted) return each.file.file();
    }
    return open_same(files, path_, wanted);
  }

  // Opens what the path leads to, as the newest file.
  void follow(FileSystem& files) {
    std::shared_ptr<File> file = files.open(path_);
    if (file == nullptr) return;
    FollowedFile opened(std::move(file));
    // One that came back under its name goes on where it was.
    const auto known = std::find_if(followed_.begin(), followed_.end(), [&opened](const Followed& each) {
      return each.file.info().same_file(opened.info());
    });
    if (known == followed_.end()) {
      followed_.push_back({std::move(opened), std::nullopt});
    } else {
      std::rotate(known, known + 1, followed_.end());
      followed_.back().rotated.reset();
    }
  }

  void look_for_rotation(FileSystem& files) {
    const std::optional<FileInfo> there = files.stat(path_);
    if (!there.has_value() || there->is_directory) return;
    if (!followed_.empty() && followed_.back().file.info().same_file(*there)) return;
    const std::size_t before = followed_.size();
    follow(files);
    if (before > 0 && followed_.size() > before) ++rotations_;
  }

  // Files in the order in which the path led to them; a newer one only when the lines of those before it are taken.
  void take(Time time, std::vector<FollowedRange>& ranges) {
    std::uint64_t left = options_.bytes_per_batch_max;
    for (auto it = followed_.begin(); it != followed_.end();) {
      const bool newest = std::next(it) == followed_.end();
      const bool closing = !newest && it->rotated.has_value() && time - *it->rotated >= options_.rotation_wait;
      if (it->file.look()) ++truncations_;
      const std::size_t before = ranges.size();
      const bool took_all = it->file.take(left, closing, ranges);
      if (!newest && !it->rotated.has_value()) it->rotated = time;
      for (std::size_t i = before; i < ranges.size(); ++i) left -= std::min(left, ranges[i].end - ranges[i].begin);
      if (!took_all || left == 0) return;
      it = closing ? followed_.erase(it) : std::next(it);
    }
  }

  std::string describe(Engine& engine, const std::string& failure) const {
    std::string text = path_;
    const auto add = [&text](std::uint64_t count, std::string_view what) {
      if (count > 0) text += "; " + std::to_string(count) + std::string(what);
    };
    if (followed_.empty()) text += "; waiting for the file";
    add(rotations_, " rotations");
    add(gone_, " files gone before they were read to their end");
    add(truncations_, " truncations");
    add(static_cast<std::uint64_t>(engine.accumulated(lost_counter_)), " bytes cut off before they were read");
    add(failures_, " failures");
    if (!failure.empty()) text += ": " + failure;
    return text;
  }

  const std::string path_;
  const FollowFileOptions options_;
  const TextReadOptions read_;
  const std::uint64_t lost_counter_;
  const std::size_t partitions_max_;
  std::deque<Followed> followed_;  // oldest first; the last one is what the path led to when it was last seen
  std::vector<Earlier> earlier_;   // from `load` to `start`
  std::vector<std::shared_ptr<File>> at_hand_;  // of the last choice, until its RDD is made
  std::uint64_t gone_ = 0;
  std::uint64_t rotations_ = 0;
  std::uint64_t truncations_ = 0;
  std::uint64_t failures_ = 0;
};

}  // namespace

std::unique_ptr<Input> make_follow_file_input(Engine& engine, std::string path, FollowFileOptions options,
                                              std::uint64_t too_long_counter, std::size_t partitions_max) {
  return std::make_unique<FollowFileInput>(engine, std::move(path), options, too_long_counter, partitions_max);
}

}  // namespace sluice::detail
