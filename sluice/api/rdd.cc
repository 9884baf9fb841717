#include "sluice/api/rdd.h"

#include <charconv>
#include <cstdio>
#include <string_view>
#include <vector>

#include "sluice/runtime/planted_bug.h"

namespace sluice::detail {
namespace {

template <class N>
void append_number(std::string& line, N value) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  line.append(digits, end);
}

/// Writes a file beside its final name; it gets that name when the partition is whole.
class TextFilePipe : public Pipe {
 public:
  TextFilePipe(FileSystem& files, const std::string& directory, const OpenAt& at, Pipe& next)
      : files_(files), info_(at.info), next_(next) {
    char part[32];
    std::snprintf(part, sizeof part, "part-%05zu", at.partition);
    path_ = directory + "/" + part;
    // Attempts of one task never run at the same time on one name.
    unfinished_ = directory + "/." + part + "." + std::to_string(at.task.id().attempt) + ".unfinished";
    if (planted_bug("direct-commit")) unfinished_ = path_;
    at_place([this] { file_ = files_.create(unfinished_); });
  }
  ~TextFilePipe() override {
    if (file_ == nullptr) return;
    try {
      file_ = nullptr;
      files_.remove(unfinished_);
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: an unfinished file stays behind: %s\n", error.what());
    }
  }
  void push(const void* records, std::size_t count) override {
    const auto* lines = static_cast<const std::string*>(records);
    for (std::size_t i = 0; i < count; ++i) {
      buffer_ += lines[i];
      buffer_ += '\n';
      if (buffer_.size() >= (1 << 18)) write();
    }
  }
  void finish() override {
    write();
    at_place([this] {
      file_->sync();
      file_ = nullptr;
      files_.rename(unfinished_, path_);
    });
    next_.finish();
  }

 private:
  // Here and not further up the pipe, where it would seem to be a record's fault.
  template <class Call>
  void at_place(const Call& call) {
    try {
      call();
    } catch (const Error&) {
      rethrow_at(info_);
    }
  }
  void write() {
    at_place([this] { file_->append(buffer_); });
    buffer_.clear();
  }
  FileSystem& files_;
  const OperatorInfo& info_;
  Pipe& next_;
  std::string path_;
  std::string unfinished_;
  std::unique_ptr<File> file_;
  std::string buffer_;
};

class TextFileKernel : public Kernel {
 public:
  explicit TextFileKernel(std::string directory) : directory_(std::move(directory)) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<TextFilePipe>(at.task.environment().runtime.files(), directory_, at, next);
  }

 private:
  std::string directory_;
};

}  // namespace

void append_text(std::string& line, std::string_view text) { line += text; }
void append_text(std::string& line, bool value) { line += value ? "true" : "false"; }
void append_text(std::string& line, char value) { line += value; }
void append_text(std::string& line, double value) { append_number(line, value); }
void append_text(std::string& line, std::int64_t value) { append_number(line, value); }
void append_text(std::string& line, std::uint64_t value) { append_number(line, value); }

Shipped<Kernel> text_file_writer(const OperatorInfo& info, const std::string& directory) {
  return ship<Kernel, TextFileKernel>(info, directory);
}

void begin_text_files(FileSystem& files, const std::string& directory, const OperatorInfo& info) {
  try {
    files.make_directories(directory);
  } catch (const Error&) {
    rethrow_at(info);
  }
}

// A process that was killed has left what it was writing, under the number of an attempt that does not come again.
void end_text_files(FileSystem& files, const std::string& directory, const OperatorInfo& info) {
  const auto is_left = [](std::string_view name) {
    return (name.starts_with(".part-") && name.ends_with(".unfinished")) || FileSystem::is_temporary(name, "_SUCCESS.");
  };
  try {
    for (const FileInfo& file : files.list(directory).value_or(std::vector<FileInfo>{})) {
      if (is_left(base_name(file.path))) files.remove(file.path);
    }
    files.publish(directory + "/_SUCCESS", {});
  } catch (const Error&) {
    rethrow_at(info);
  }
}

}  // namespace sluice::detail
