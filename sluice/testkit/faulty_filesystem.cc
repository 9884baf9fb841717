#include "sluice/testkit/faulty_filesystem.h"

#include <cstdio>
#include <cstdlib>
#include <span>

#include "sluice/runtime/errors.h"

namespace sluice::testing {
namespace {

[[noreturn]] void throw_fault(FileFault fault, const std::string& path) {
  const char* const reason = fault == FileFault::io_error ? "Input/output error" : "No space left on device";
  throw Error(Code::io_failed, {.why = path + ": " + reason + " (a fault of the test's script)"});
}

}  // namespace

class FaultyFileSystem::FaultyFile final : public File {
 public:
  FaultyFile(FaultyFileSystem& files, std::unique_ptr<File> base, std::string path)
      : files_(files), base_(std::move(base)), path_(std::move(path)) {}

  std::size_t read_at(std::uint64_t offset, std::span<char> into) override {
    files_.begin(FileOperation::read_at, path_);
    return base_->read_at(offset, into);
  }

  void append(std::string_view bytes) override {
    write(FileOperation::append, bytes, [&](std::string_view part) { base_->append(part); });
  }

  void write_at(std::uint64_t offset, std::string_view bytes) override {
    write(FileOperation::write_at, bytes, [&](std::string_view part) { base_->write_at(offset, part); });
  }

  void sync() override {
    files_.begin_sync(FileOperation::sync, path_);
    base_->sync();
  }

  void truncate(std::uint64_t size_bytes) override {
    files_.begin(FileOperation::truncate, path_);
    base_->truncate(size_bytes);
  }

  FileInfo info() override {
    files_.begin(FileOperation::info, path_);
    return base_->info();
  }

 private:
  template <class Write>
  void write(FileOperation operation, std::string_view bytes, Write write_part) {
    const std::optional<FileFault> fault = files_.next_fault(operation, path_);
    if (!fault) return write_part(bytes);
    if (fault == FileFault::short_write) write_part(bytes.substr(0, bytes.size() / 2));
    throw_fault(*fault, path_);
  }

  FaultyFileSystem& files_;
  const std::unique_ptr<File> base_;
  const std::string path_;
};

FaultyFileSystem::FaultyFileSystem(FileSystem& base)
    : base_(base), on_failed_sync_([](const std::string& path) {
        std::fprintf(stderr, "the sync of %s fails, so the process ends (a fault of the test's script)\n",
                     path.c_str());
        std::abort();
      }) {}

FaultyFileSystem::~FaultyFileSystem() = default;

void FaultyFileSystem::fail(FileFailure failure) {
  if (failure.nth == 0) throw Error(Code::bad_argument, {.why = "FileFailure::nth is counted from 1"});
  const std::lock_guard lock(mutex_);
  script_.push_back(std::move(failure));
}

void FaultyFileSystem::mend() {
  const std::lock_guard lock(mutex_);
  script_.clear();
}

void FaultyFileSystem::on_failed_sync(std::function<void(const std::string&)> call) {
  on_failed_sync_ = std::move(call);
}

std::uint64_t FaultyFileSystem::count(FileOperation operation, std::string_view path_part) const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (auto at = counts_.lower_bound({operation, {}}); at != counts_.end() && at->first.first == operation; ++at) {
    if (at->first.second.find(path_part) != std::string::npos) sum += at->second;
  }
  return sum;
}

std::uint64_t FaultyFileSystem::failures() const {
  const std::lock_guard lock(mutex_);
  return failures_;
}

// Counts the operation for all lines of the script; the first that is due decides.
std::optional<FileFault> FaultyFileSystem::next_fault(FileOperation operation, const std::string& path) {
  const std::lock_guard lock(mutex_);
  ++counts_[{operation, path}];
  std::optional<FileFault> fault;
  for (FileFailure& line : script_) {
    if (line.operation != operation || path.find(line.path_part) == std::string::npos) continue;
    if (line.nth > 1) {
      --line.nth;
    } else if (line.times > 0) {
      --line.times;
      if (!fault) fault = line.fault;
    }
  }
  failures_ += fault.has_value();
  return fault;
}

void FaultyFileSystem::begin(FileOperation operation, const std::string& path) {
  if (const auto fault = next_fault(operation, path)) throw_fault(*fault, path);
}

void FaultyFileSystem::begin_sync(FileOperation operation, const std::string& path) {
  const std::optional<FileFault> fault = next_fault(operation, path);
  if (!fault) return;
  on_failed_sync_(path);
  throw_fault(*fault, path);
}

std::unique_ptr<File> FaultyFileSystem::open(const std::string& path) {
  begin(FileOperation::open, path);
  std::unique_ptr<File> file = base_.open(path);
  if (!file) return nullptr;
  return std::make_unique<FaultyFile>(*this, std::move(file), path);
}

std::unique_ptr<File> FaultyFileSystem::open_append(const std::string& path) {
  begin(FileOperation::open_append, path);
  return std::make_unique<FaultyFile>(*this, base_.open_append(path), path);
}

std::unique_ptr<File> FaultyFileSystem::create(const std::string& path) {
  begin(FileOperation::create, path);
  return std::make_unique<FaultyFile>(*this, base_.create(path), path);
}

std::unique_ptr<File> FaultyFileSystem::create_private(const std::string& path) {
  begin(FileOperation::create, path);
  return std::make_unique<FaultyFile>(*this, base_.create_private(path), path);
}

void FaultyFileSystem::rename(const std::string& from, const std::string& to) {
  begin(FileOperation::rename, to);
  base_.rename(from, to);
}

bool FaultyFileSystem::rename_new(const std::string& from, const std::string& to) {
  begin(FileOperation::rename_new, to);
  return base_.rename_new(from, to);
}

bool FaultyFileSystem::remove(const std::string& path) {
  begin(FileOperation::remove, path);
  return base_.remove(path);
}

void FaultyFileSystem::make_directories(const std::string& path) {
  begin(FileOperation::make_directories, path);
  base_.make_directories(path);
}

void FaultyFileSystem::sync_directory(const std::string& path) {
  begin_sync(FileOperation::sync_directory, path);
  base_.sync_directory(path);
}

std::optional<std::vector<FileInfo>> FaultyFileSystem::list(const std::string& path) {
  begin(FileOperation::list, path);
  return base_.list(path);
}

std::optional<FileInfo> FaultyFileSystem::stat(const std::string& path) {
  begin(FileOperation::stat, path);
  return base_.stat(path);
}

}  // namespace sluice::testing
